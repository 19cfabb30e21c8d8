package main

import (
	"mime"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// maxTitleInName bounds the title in a file's name, in bytes. With it, names stay below 255 bytes, also on file systems
// that decompose characters.
const maxTitleInName = 64

// exportName returns the path of a recording's file in an export: recordings/DATE_TITLE_ID.EXTENSION. The date and the ID
// keep it from being a reserved or hidden name, and the ID, in lower case, is unique for the patient. Of the title only
// letters and digits are left.
func exportName(r exportedRecording) string {
	name := r.When().UTC().Format(time.DateOnly)
	if title := nameable(r.Title); title != "" {
		name += "_" + title
	}
	_, id, _ := strings.Cut(r.ID, ".")
	return exportMedia + "/" + name + "_" + id + extension(r.ContentType)
}

// nameable returns the letters and digits of a text, with "-" for what is between them, in Unicode's normal form C.
func nameable(text string) string {
	words := strings.FieldsFunc(norm.NFC.String(text), func(r rune) bool {
		return !unicode.In(r, unicode.L, unicode.M, unicode.Nd)
	})
	name := strings.Join(words, "-")
	if len(name) > maxTitleInName {
		name = name[:maxTitleInName]
		for !utf8.ValidString(name) {
			name = name[:len(name)-1]
		}
	}
	return strings.TrimRight(name, "-")
}

// extension returns the extension for a media type. A type that a browser or a desktop would run has none of its own.
func extension(contentType string) string {
	mediaType, _, _ := mime.ParseMediaType(contentType)
	switch mediaType {
	case "video/webm", "audio/webm":
		return ".webm"
	case "video/mp4":
		return ".mp4"
	case "video/quicktime":
		return ".mov"
	case "video/x-matroska", "audio/x-matroska":
		return ".mkv"
	case "audio/mp4":
		return ".m4a"
	case "audio/mpeg":
		return ".mp3"
	case "video/ogg":
		return ".ogv"
	case "audio/ogg":
		return ".ogg"
	case "audio/wav", "audio/x-wav", "audio/vnd.wave":
		return ".wav"
	case "audio/flac":
		return ".flac"
	case "audio/aac":
		return ".aac"
	}
	return ".bin"
}
