package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// What the image is, the same in the Dockerfile. The user is a number: Kubernetes can see that it is not root.
const (
	binaryPath = "usr/bin/relay"
	rootsPath  = "etc/ssl/certs/ca-certificates.crt" // one of those where Go looks
	dataPath   = "var/lib/relay"
	user       = 65532
	apiPort    = "8080/tcp"
	metrics    = "9464/tcp"
)

// roots are Mozilla's certificate authorities. Those that are trusted for certificates up to some date only are left
// out: a bundle of certificates cannot express that, and whoever reads it would trust them altogether.
func roots() []byte {
	var b bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}) // a buffer takes everything
		}
	}
	return b.Bytes()
}

// file is an entry of a layer: a directory if its name ends with a slash.
type file struct {
	name  string
	mode  int64
	owner int
	data  []byte
}

// assemble puts one image for each platform into an index. What changes seldom is a layer of its own.
func assemble(binaries map[string][]byte, build origin) (v1.ImageIndex, error) {
	base := []file{
		{name: "etc/", mode: 0o755}, {name: "etc/ssl/", mode: 0o755}, {name: "etc/ssl/certs/", mode: 0o755},
		{name: rootsPath, mode: 0o644, data: roots()},
		{name: "var/", mode: 0o755}, {name: "var/lib/", mode: 0o755}, {name: dataPath + "/", mode: 0o700, owner: user},
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, platform := range slices.Sorted(maps.Keys(binaries)) {
		program := []file{
			{name: "usr/", mode: 0o755}, {name: "usr/bin/", mode: 0o755},
			{name: binaryPath, mode: 0o755, data: binaries[platform]},
		}
		image, err := imageOf(platform, build, base, program)
		if err != nil {
			return nil, fmt.Errorf("make the image for %s: %w", platform, err)
		}
		system, arch, _ := strings.Cut(platform, "/")
		described := v1.Descriptor{Platform: &v1.Platform{OS: system, Architecture: arch}}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: described})
	}
	return index, nil
}

func imageOf(platform string, build origin, layers ...[]file) (v1.Image, error) {
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, files := range layers {
		layer, err := layerOf(files, build)
		if err != nil {
			return nil, err
		}
		image, err = mutate.Append(image, mutate.Addendum{Layer: layer,
			History: v1.History{Created: v1.Time{Time: build.time}, CreatedBy: "deploy/oci"}})
		if err != nil {
			return nil, err
		}
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, _ = strings.Cut(platform, "/")
	config.Created = v1.Time{Time: build.time}
	config.Config = v1.Config{
		User:         fmt.Sprintf("%d:%d", user, user),
		Entrypoint:   []string{"/" + binaryPath},
		Cmd:          []string{"serve"},
		Env:          []string{"RELAY_DATA_DIR=/" + dataPath},
		WorkingDir:   "/",
		ExposedPorts: map[string]struct{}{apiPort: {}, metrics: {}},
		Volumes:      map[string]struct{}{"/" + dataPath: {}},
		Labels: map[string]string{
			"org.opencontainers.image.title":       "relay",
			"org.opencontainers.image.description": "Hands on what happens to parts orders in Audatex's Inpart",
			"org.opencontainers.image.licenses":    "Apache-2.0",
			"org.opencontainers.image.version":     build.version,
			"org.opencontainers.image.revision":    build.revision,
		},
	}
	return mutate.ConfigFile(image, config)
}

func layerOf(files []file, build origin) (v1.Layer, error) {
	raw, err := tarOf(files, build)
	if err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil },
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.DefaultCompression))
}

// tarOf writes files into a tar file, in their order and with the commit's time.
func tarOf(files []file, build origin) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		header := &tar.Header{
			Name: f.name, Mode: f.mode, Uid: f.owner, Gid: f.owner, Size: int64(len(f.data)), ModTime: build.time,
			Format: tar.FormatUSTAR, Typeflag: tar.TypeReg,
		}
		if strings.HasSuffix(f.name, "/") {
			header.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

// archive writes the index as an OCI image layout into one tar file, in the order of names and with the commit's time.
func archive(index v1.ImageIndex, out string, build origin) error {
	dir, err := os.MkdirTemp("", "relay-oci")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	// The name is what skopeo and podman call the image by when they read the archive.
	if err := path.AppendIndex(index,
		layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": build.version})); err != nil {
		return err
	}
	var files []file
	content := os.DirFS(dir)
	err = fs.WalkDir(content, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		if entry.IsDir() {
			files = append(files, file{name: name + "/", mode: 0o755})
			return nil
		}
		data, err := fs.ReadFile(content, name)
		files = append(files, file{name: name, mode: 0o644, data: data})
		return err
	})
	if err != nil {
		return err
	}
	raw, err := tarOf(files, build)
	if err != nil {
		return err
	}
	return os.WriteFile(out, raw, 0o644) //nolint:gosec // an image is for everybody
}
