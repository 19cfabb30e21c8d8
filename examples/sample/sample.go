// Package sample has the recording that the examples play: forty seconds of a moving test picture with
// a running time code, and a tone of 440 Hz. It was made with FFmpeg 5.1 from Debian:
//
//	ffmpeg -f lavfi -i testsrc2=size=320x240:rate=12:duration=40 \
//	  -f lavfi -i sine=frequency=440:duration=40 \
//	  -vf "drawtext=fontfile=/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf:text='%{pts\:hms}':x=20:y=20:fontsize=36:fontcolor=white:box=1:boxcolor=black" \
//	  -c:v libvpx-vp9 -b:v 120k -g 24 -c:a libopus -b:a 24k consultation.webm
package sample

import (
	_ "embed"
	"time"
)

// Video is a WebM file of VP9 and Opus, 320 by 240 pixels, under 1 MiB.
//
//go:embed consultation.webm
var Video []byte

const (
	// ContentType is the media type of Video.
	ContentType = "video/webm"
	// Duration is how long Video plays.
	Duration = 40 * time.Second
)
