// Bento with the few components that the comparison needs: a small part of the usual binary, built from the same
// module.
package main

import (
	"context"
	"io"
	"os"

	_ "github.com/warpstreamlabs/bento/public/components/aws"
	_ "github.com/warpstreamlabs/bento/public/components/io"
	_ "github.com/warpstreamlabs/bento/public/components/pure"
	"github.com/warpstreamlabs/bento/public/service"
)

func main() {
	// The load test holds stdin open for as long as it lives; a worker that outlived it would disturb the next run.
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	service.RunCLI(context.Background())
}
