package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/x509"
	"debug/elf"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

const testVersion = "0.0.0-test"

// platforms are this machine's, and both with RELAY_IMAGE_PLATFORMS=all: compiling everything for another one takes
// minutes.
func platforms() []string {
	if os.Getenv("RELAY_IMAGE_PLATFORMS") == "all" {
		return []string{"linux/amd64", "linux/arm64"}
	}
	return []string{"linux/" + runtime.GOARCH}
}

// built is the archive, made once for all tests, and the binaries in it.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "relay-oci-test")
	if err != nil {
		return "", err
	}
	out := filepath.Join(dir, "relay.tar")
	return out, run(context.Background(),
		options{source: "../..", out: out, platforms: strings.Join(platforms(), ","), version: testVersion})
})

func TestMain(m *testing.M) {
	code := m.Run()
	if out, err := built(); err == nil {
		_ = os.RemoveAll(filepath.Dir(out))
	}
	os.Exit(code)
}

func archivePath(t *testing.T) string {
	t.Helper()
	out, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// index reads the archive as any other program would: unpacked, as an image layout.
func index(t *testing.T) v1.ImageIndex {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Open(archivePath(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	untar(t, f, dir, false)
	outer, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := outer.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 ||
		manifest.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != testVersion {
		t.Fatalf("index.json names not one image of version %s: %+v", testVersion, manifest.Manifests)
	}
	inner, err := outer.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return inner
}

// imageFor takes one platform's image out of the index.
func imageFor(t *testing.T, index v1.ImageIndex, platform string) v1.Image {
	t.Helper()
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range manifest.Manifests {
		if m.Platform.OS+"/"+m.Platform.Architecture == platform {
			image, err := index.Image(m.Digest)
			if err != nil {
				t.Fatal(err)
			}
			return image
		}
	}
	t.Fatalf("no image for %s", platform)
	return nil
}

func TestArchiveIsAnImageLayout(t *testing.T) {
	t.Parallel()
	index := index(t)
	// Sizes and digests of everything, down to each layer's content.
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	for _, platform := range platforms() {
		image := imageFor(t, index, platform)
		manifest, err := image.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		if manifest.MediaType != types.OCIManifestSchema1 || manifest.Config.MediaType != types.OCIConfigJSON {
			t.Errorf("%s: manifest %s, configuration %s: not those of OCI",
				platform, manifest.MediaType, manifest.Config.MediaType)
		}
		for _, layer := range manifest.Layers {
			if layer.MediaType != types.OCILayer {
				t.Errorf("%s: layer of type %s", platform, layer.MediaType)
			}
		}
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if config.OS+"/"+config.Architecture != platform {
			t.Errorf("the configuration of %s is for %s/%s", platform, config.OS, config.Architecture)
		}
		if config.Config.Labels["org.opencontainers.image.version"] != testVersion ||
			len(config.Config.Labels["org.opencontainers.image.revision"]) != 40 {
			t.Errorf("%s: labels do not say what was built: %v", platform, config.Config.Labels)
		}
	}
}

// The same commit gives the same image: made twice, every byte is equal.
func TestArchiveIsReproducible(t *testing.T) {
	t.Parallel()
	again := filepath.Join(t.TempDir(), "again.tar")
	first, err := os.ReadFile(archivePath(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), options{source: "../..", out: again, platforms: strings.Join(platforms(), ","),
		version: testVersion}); err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(again)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Error("two archives of one commit differ")
	}
}

func TestBinaryIsStaticAndForItsPlatform(t *testing.T) {
	t.Parallel()
	machines := map[string]elf.Machine{"linux/amd64": elf.EM_X86_64, "linux/arm64": elf.EM_AARCH64}
	index := index(t)
	for _, platform := range platforms() {
		root := t.TempDir()
		unpack(t, imageFor(t, index, platform), root)
		f, err := elf.Open(filepath.Join(root, binaryPath))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if f.Machine != machines[platform] {
			t.Errorf("the binary of %s is for %s", platform, f.Machine)
		}
		if libraries, err := f.ImportedLibraries(); err != nil || len(libraries) > 0 {
			t.Errorf("the binary of %s wants libraries: %v, %v", platform, libraries, err)
		}
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP {
				t.Errorf("the binary of %s wants a loader", platform)
			}
		}
	}
}

func TestRootsAreCurrentAuthorities(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for rest := roots(); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if !certificate.IsCA {
			t.Errorf("%s is no authority", certificate.Subject)
		}
		names[certificate.Subject.CommonName] = true
	}
	if len(names) < 80 {
		t.Errorf("%d authorities", len(names))
	}
	for _, name := range []string{"ISRG Root X1", "DigiCert Global Root G2", "GTS Root R1", "Amazon Root CA 1"} {
		if !names[name] {
			t.Errorf("%s is missing", name)
		}
	}
}

// unpack writes the image's layers over one another, as a container engine does.
func unpack(t *testing.T, image v1.Image, root string) {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range layers {
		r, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		untar(t, r, root, os.Geteuid() == 0)
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func untar(t *testing.T, from io.Reader, root string, owners bool) {
	t.Helper()
	for r := tar.NewReader(from); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if !filepath.IsLocal(filepath.Clean(h.Name)) {
			t.Fatalf("%q lies outside", h.Name)
		}
		path := filepath.Join(root, h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, h.FileInfo().Mode().Perm())
		case tar.TypeReg:
			var data []byte
			if data, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(path, data, h.FileInfo().Mode().Perm())
			}
		default:
			t.Fatalf("%s is neither file nor directory", h.Name)
		}
		if err == nil && owners {
			err = os.Chown(path, h.Uid, h.Gid)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Nothing is in the image but what is meant to be.
func TestImageHoldsThreeThings(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	unpack(t, imageFor(t, index(t), platforms()[0]), root)
	var found []string
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		if !entry.IsDir() || name == dataPath {
			found = append(found, info.Mode().String()+" "+name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"-rw-r--r-- " + rootsPath, "-rwxr-xr-x " + binaryPath, "drwx------ " + dataPath}
	if slices.Sort(found); !slices.Equal(found, want) {
		t.Errorf("the image holds %q, not %q", found, want)
	}
}
