package dsql

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
)

// attrs returns the fields that are set, without secrets.
func (c Config) attrs() []slog.Attr {
	var attrs []slog.Attr
	add := func(name string, set bool, value any) {
		if set {
			attrs = append(attrs, slog.Any(name, value))
		}
	}
	for _, f := range []struct{ name, value string }{
		{"Host", c.Host}, {"ClusterID", c.ClusterID}, {"Region", c.Region},
		{"DialAddress", c.DialAddress}, {"ServerName", c.ServerName}, {"Transport", c.Transport},
		{"User", c.User}, {"Database", c.Database}, {"Profile", c.Profile},
		{"RoleARN", c.RoleARN}, {"RoleSessionName", c.RoleSessionName},
		{"SSLNegotiation", c.SSLNegotiation}, {"ApplicationName", c.ApplicationName},
	} {
		add(f.name, f.value != "", f.value)
	}
	add("Port", c.Port != 0, c.Port)
	add("Credentials", c.Credentials != nil, fmt.Sprintf("%T", c.Credentials))
	add("ExternalID", c.ExternalID != "", "set")
	add("TokenLifetime", c.TokenLifetime != 0, c.TokenLifetime.String())
	add("RootCAs", c.RootCAs != nil, "set")
	add("EarlyAuth", c.EarlyAuth, c.EarlyAuth)
	add("ConnectTimeout", c.ConnectTimeout != 0, c.ConnectTimeout.String())
	add("ConnectRate", c.ConnectRate != 0, c.ConnectRate)
	add("ConnectBurst", c.ConnectBurst != 0, c.ConnectBurst)
	add("DialFunc", c.DialFunc != nil, "set")
	params := maps.Clone(c.Params)
	for name, value := range params {
		// validate will refuse these, but the Config may be logged before, or with that error.
		if slices.Contains(forbiddenParams, strings.ToLower(name)) || containsPassword(name+"="+value) {
			params[name] = "[hidden]"
		}
	}
	add("Params", len(params) > 0, params)
	add("Logger", c.Logger != nil, "set")
	add("OnRetry", c.OnRetry != nil, "set")
	add("OnToken", c.OnToken != nil, "set")
	return attrs
}

// String returns the fields that are set, without secrets.
func (c Config) String() string {
	var b strings.Builder
	b.WriteString("dsql.Config{")
	for i, a := range c.attrs() {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s: %v", a.Key, a.Value)
	}
	b.WriteString("}")
	return b.String()
}

// Format prints String for every verb: by default %+v and %#v would print the credentials.
func (c Config) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.String()) }

// LogValue returns the fields of String as a group.
func (c Config) LogValue() slog.Value { return slog.GroupValue(c.attrs()...) }

// MarshalJSON returns the fields of String as an object. It is for logs and reports: the object
// cannot be unmarshalled into an equal Config.
func (c Config) MarshalJSON() ([]byte, error) {
	fields := map[string]any{}
	for _, a := range c.attrs() {
		fields[a.Key] = a.Value.Any()
	}
	return json.Marshal(fields)
}
