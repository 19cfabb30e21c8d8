// Command front puts the three processes behind one address, for development. It stands for a load balancer.
package main

import (
	"flag"
	"log"
	"net/http"
	"time"

	"github.com/recvault/recvault/examples/service/internal/front"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to serve users")
	login := flag.String("login", "127.0.0.1:8081", "where login is")
	ingest := flag.String("ingest", "127.0.0.1:8082", "where ingest is")
	play := flag.String("play", "127.0.0.1:8083", "where play is")
	flag.Parse()
	log.Printf("front: http://%s/", *addr)
	server := &http.Server{Addr: *addr, Handler: front.Handler(*login, *ingest, *play), ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}
