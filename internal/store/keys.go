package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// errKeyset describes what keys must look like. It quotes nothing: it would be key material.
var errKeyset = errors.New("not a Tink keyset in JSON, nor several of them in a list (make one with `relay keys`)")

// keysetJSON is Tink's keyset as far as several are made one.
type keysetJSON struct {
	PrimaryKeyID uint32            `json:"primaryKeyId"`
	Key          []json.RawMessage `json:"key"`
}

// keyJSON is one key of it.
type keyJSON struct {
	KeyID            uint32 `json:"keyId"`
	Status           string `json:"status"`
	OutputPrefixType string `json:"outputPrefixType"`
}

// mergeKeysets makes one keyset of several: in a JSON array, or one after the other, with or
// without commas between them. The primary key of the first encrypts; all keys of all decrypt. It
// returns the primary's id and all that decrypt.
func mergeKeysets(given []byte) (merged []byte, primary uint32, readable []uint32, err error) {
	sets, err := splitKeysets(given)
	if err != nil || len(sets) == 0 {
		return nil, 0, nil, errKeyset
	}
	all := keysetJSON{PrimaryKeyID: sets[0].PrimaryKeyID}
	known := map[uint32][]byte{}
	for _, set := range sets {
		for _, raw := range set.Key {
			var key keyJSON
			var compact bytes.Buffer
			if json.Unmarshal(raw, &key) != nil || json.Compact(&compact, raw) != nil {
				return nil, 0, nil, errKeyset
			}
			if key.OutputPrefixType != "TINK" {
				return nil, 0, nil,
					fmt.Errorf("key %d has the output prefix %.20q; TINK is needed, so that what it has encrypted is "+
						"known by its id",
						key.KeyID, key.OutputPrefixType)
			}
			if before, there := known[key.KeyID]; there {
				if !bytes.Equal(before, compact.Bytes()) {
					return nil, 0, nil, fmt.Errorf("two different keys have the id %d", key.KeyID)
				}
				continue
			}
			known[key.KeyID] = compact.Bytes()
			all.Key = append(all.Key, raw)
			if key.Status == "ENABLED" {
				readable = append(readable, key.KeyID)
			}
		}
	}
	if !slices.Contains(readable, all.PrimaryKeyID) {
		return nil, 0, nil, errKeyset
	}
	merged, err = json.Marshal(all)
	return merged, all.PrimaryKeyID, readable, err
}

func splitKeysets(given []byte) (sets []keysetJSON, err error) {
	given = bytes.TrimSpace(given)
	if bytes.HasPrefix(given, []byte("[")) {
		return sets, json.Unmarshal(given, &sets)
	}
	for len(given) > 0 {
		d := json.NewDecoder(bytes.NewReader(given))
		var set keysetJSON
		if err := d.Decode(&set); err != nil {
			if errors.Is(err, io.EOF) {
				break
			}
			return nil, err
		}
		sets = append(sets, set)
		given = bytes.TrimLeft(given[d.InputOffset():], ", \t\r\n")
	}
	return sets, nil
}

// keyOf returns the id of the key that something was sealed with, as Tink writes it before the
// ciphertext; false for what is no ciphertext of such a key.
func keyOf(sealed []byte) (uint32, bool) {
	const tinkPrefix = 1
	if len(sealed) < 5 || sealed[0] != tinkPrefix {
		return 0, false
	}
	return binary.BigEndian.Uint32(sealed[1:5]), true
}
