// A program with go-spiffe. It prints the serial of each certificate that the Workload API gives it, then speaks mutual TLS
// with itself by it and prints "mutual TLS" with the serial that the other side showed.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func main() {
	source, err := workloadapi.NewX509Source(context.Background())
	check(err)
	updated := source.Updated()
	for {
		svid, err := source.GetX509SVID()
		check(err)
		fmt.Printf("certificate %x of %s\n", svid.Certificates[0].SerialNumber, svid.ID)
		fmt.Printf("mutual TLS %x\n", handshake(source, svid.ID))
		<-updated
	}
}

// The serial that the server showed, whose client was verified too.
func handshake(source *workloadapi.X509Source, id spiffeid.ID) []byte {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	defer listener.Close()
	config, clientConfig := mutualTLS(source, id)
	accepted := make(chan error)
	go func() {
		connection, err := listener.Accept()
		if err == nil {
			server := tls.Server(connection, config)
			err = server.Handshake()
			_ = server.Close()
		}
		accepted <- err
	}()
	client, err := tls.Dial("tcp", listener.Addr().String(), clientConfig)
	check(err)
	check(<-accepted)
	serial := client.ConnectionState().PeerCertificates[0].SerialNumber.Bytes()
	_ = client.Close()
	return serial
}

// The example of docs/workload-api.md.
func mutualTLS(source *workloadapi.X509Source, peer spiffeid.ID) (server, client *tls.Config) {
	server = tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeID(peer))
	client = tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(peer))
	return server, client
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
