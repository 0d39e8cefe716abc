package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dsqlgo/dsql/dsqltest"
)

// identity is what a local cluster keeps from one start to the next. Empty fields are chosen at the
// start.
type identity struct {
	ClusterID       string
	Region          string
	Roles           []string
	AccessKeyID     string
	SecretAccessKey string
}

// override sets the fields that flags give.
func (id *identity) override(given identity) {
	id.ClusterID = cmp.Or(given.ClusterID, id.ClusterID)
	id.Region = cmp.Or(given.Region, id.Region)
	if given.Roles != nil {
		id.Roles = given.Roles
	}
}

func (id *identity) options() []dsqltest.Option {
	var options []dsqltest.Option
	if id.ClusterID != "" {
		options = append(options, dsqltest.WithClusterID(id.ClusterID))
	}
	if id.Region != "" {
		options = append(options, dsqltest.WithRegion(id.Region))
	}
	if id.Roles != nil {
		options = append(options, dsqltest.WithRoles(id.Roles...))
	}
	return options
}

// use lets server accept the key of id, and takes what id leaves open from server.
func (id *identity) use(server *dsqltest.Server) {
	id.ClusterID, id.Region = server.ClusterID(), server.Region()
	if id.AccessKeyID == "" {
		key := server.Credentials()
		id.AccessKeyID, id.SecretAccessKey = key.AccessKeyID, key.SecretAccessKey
		return
	}
	server.AllowKey(id.AccessKeyID, id.SecretAccessKey, "")
}

// openDataDir creates dir if it does not exist, and returns the identity in it, if there is one.
func openDataDir(dir string) (id identity, err error) {
	// Other users may enter: if this runs as root, PostgreSQL runs as another user. Files with keys
	// are for the owner alone, even if an archive or a backup restored them with a wider mode.
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return id, err
	}
	for _, name := range []string{identityFile, authorityFile} {
		if err := os.Chmod(filepath.Join(dir, name), 0o600); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return id, err
		}
	}
	file := filepath.Join(dir, identityFile)
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return id, nil
	}
	if err != nil {
		return id, err
	}
	if err := json.Unmarshal(data, &id); err != nil {
		return id, fmt.Errorf("%s: %w; remove the file for a new identity with the same data", file, err)
	}
	return id, nil
}

func (id *identity) save(dir string) error {
	data, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, identityFile), append(data, '\n'), 0o600)
}
