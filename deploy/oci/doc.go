// Command oci makes the relay's container image without a container engine: an archive in the OCI image layout with the
// static binary, a bundle of certificate authorities and a directory for data, as the Dockerfile makes it. The same
// commit gives the same digest wherever the same Go compiles it, as times are the commit's (or SOURCE_DATE_EPOCH), the
// authorities come from a module of a fixed version and not from the machine, and no path of the machine gets into the
// binary. Begin reading at run in main.go, then at image.go.
//
//	go -C deploy/oci run . -out /tmp/relay.tar
//	go -C deploy/oci run . -out /tmp/relay.tar -platforms linux/arm64
//	skopeo copy --all oci-archive:/tmp/relay.tar docker://registry.example.com/relay:0.1.0
//	go -C deploy/oci run . -roots /tmp/ca-certificates.crt    only the bundle: the Dockerfile's build does this
package main
