package dsql_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	pathpkg "path"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
)

// block is a Go block of a page.
type block struct {
	number int    // on its page
	at     string // page:line
	code   string
	run    bool // the page has <!-- run --> before it
}

// pages are all that users read, but for those of examples/ecosystem, whose blocks
// need another module's dependencies.
func pages(t *testing.T) []string {
	found := []string{"README.md"}
	for _, dir := range []string{"docs", "examples"} {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case path == filepath.Join("examples", "ecosystem"):
				return fs.SkipDir
			case filepath.Ext(path) == ".md":
				found = append(found, path)
			}
			return nil
		})
		require.NoError(t, err)
	}
	return found
}

var fence = regexp.MustCompile("(?ms)^(<!-- run -->\n+)?( *)```go\n(.*?)^ *```$")

func blocks(t *testing.T, page string) []block {
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	var found []block
	for _, m := range fence.FindAllSubmatchIndex(text, -1) {
		indent := string(text[m[4]:m[5]])
		found = append(found, block{
			number: len(found),
			at:     fmt.Sprintf("%s:%d", page, 1+bytes.Count(text[:m[6]], []byte("\n"))),
			code:   strings.ReplaceAll("\n"+string(text[m[6]:m[7]]), "\n"+indent, "\n")[1:],
			run:    m[2] >= 0,
		})
	}
	require.Equal(t, bytes.Count(text, []byte("```go")), len(found), "%s has a fence of Go that is written in another way", page)
	return found
}

// What excerpts may use without saying where it comes from: packages, and variables
// of a function around them.
var (
	excerptImports = map[string]string{
		"context": "context", "sql": "database/sql", "errors": "errors", "fmt": "fmt", "log": "log", "slog": "log/slog", "http": "net/http",
		"iter": "iter", "json": "encoding/json", "os": "os", "sync": "sync", "atomic": "sync/atomic", "testing": "testing", "time": "time",
		"aws": "github.com/aws/aws-sdk-go-v2/aws", "credentials": "github.com/aws/aws-sdk-go-v2/credentials",
		"pgx": "github.com/jackc/pgx/v5", "pgconn": "github.com/jackc/pgx/v5/pgconn", "pgxpool": "github.com/jackc/pgx/v5/pgxpool",
		"dsql": "github.com/dsqlgo/dsql", "dsqltx": "github.com/dsqlgo/dsql/dsqltx",
		"dsqldoctor": "github.com/dsqlgo/dsql/dsqldoctor", "dsqltest": "github.com/dsqlgo/dsql/dsqltest",
	}
	excerptVariables = "ctx context.Context, t *testing.T, config dsql.Config, pool *pgxpool.Pool, conn *pgx.Conn, db *sql.DB, " +
		"server *dsqltest.Server, rows [][]any, id, name string"
)

// file makes a file of a block: a whole one is left as it is, declarations and statements get a
// package, imports and, the latter, a function around them.
func (b block) file() (string, error) {
	if strings.HasPrefix(b.code, "package ") {
		return b.code, nil
	}
	line := "//line " + b.at + "\n"
	body := line + b.code
	if _, err := parser.ParseFile(token.NewFileSet(), "", "package excerpt\n"+body, 0); err != nil {
		// Its own scope, so that it may redeclare variables, which count as used at the end.
		open := fmt.Sprintf("func excerpt%d(%s) error {\n{\n", b.number, excerptVariables)
		parsed, err := parser.ParseFile(token.NewFileSet(), b.at, "package excerpt\n"+open+body+"}\nreturn nil\n}", 0)
		if err != nil {
			return "", fmt.Errorf("%s is neither a file nor declarations nor statements: %w", b.at, err)
		}
		inner := parsed.Decls[0].(*ast.FuncDecl).Body.List[0].(*ast.BlockStmt)
		body = open + body + "\n"
		for _, name := range declared(inner) {
			body += "_ = " + name + "\n"
		}
		body += "}\nreturn nil\n}\n"
	}
	var imports strings.Builder
	for _, name := range slices.Sorted(maps.Keys(excerptImports)) {
		if regexp.MustCompile(`\b` + name + `\.[A-Z]`).MatchString(body) {
			fmt.Fprintf(&imports, "import %q\n", excerptImports[name])
		}
	}
	return "package excerpt\n" + imports.String() + body, nil
}

// declared are the variables of a block's own scope.
func declared(block *ast.BlockStmt) []string {
	names := map[string]bool{}
	for _, statement := range block.List {
		switch s := statement.(type) {
		case *ast.AssignStmt:
			for _, left := range s.Lhs {
				if name, ok := left.(*ast.Ident); ok && s.Tok == token.DEFINE && name.Name != "_" {
					names[name.Name] = true
				}
			}
		case *ast.DeclStmt:
			for _, spec := range s.Decl.(*ast.GenDecl).Specs {
				if value, ok := spec.(*ast.ValueSpec); ok {
					for _, name := range value.Names {
						names[name.Name] = true
					}
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// Every Go block of README.md, docs and examples compiles, and those marked <!-- run --> print what
// their Output comment says, with the environment that `dsql local` prints.
func TestPages(t *testing.T) {
	root, err := os.Getwd()
	require.NoError(t, err)
	dir := t.TempDir()
	mod, err := os.ReadFile("go.mod")
	require.NoError(t, err)
	mod = append(bytes.Replace(mod, []byte("module github.com/dsqlgo/dsql"), []byte("module pages"), 1),
		"\nrequire github.com/dsqlgo/dsql v0.0.0\nreplace github.com/dsqlgo/dsql => "+root+"\n"...)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), mod, 0o600))
	sum, err := os.ReadFile("go.sum")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.sum"), sum, 0o600))

	runs := map[string]block{}
	for _, page := range pages(t) {
		for _, b := range blocks(t, page) {
			code, err := b.file()
			require.NoError(t, err)
			pkg := strings.NewReplacer("/", "_", ".", "_").Replace(page) // one for all excerpts of a page
			if strings.HasPrefix(b.code, "package ") {
				pkg += fmt.Sprint("_", b.number)
			}
			name := fmt.Sprintf("block%d.go", b.number)
			if strings.Contains(code, "func Test") {
				name = fmt.Sprintf("block%d_test.go", b.number)
			}
			require.NoError(t, os.MkdirAll(filepath.Join(dir, pkg), 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(dir, pkg, name), []byte(code), 0o600))
			if b.run {
				require.True(t, strings.HasPrefix(code, "package main\n"), "%s is to be run, but is no program", b.at)
				runs[pkg] = b
			}
		}
	}
	require.NotEmpty(t, runs)

	tool := func(args ...string) {
		if raced() { // its packages are built already
			args = slices.Insert(args, 1, "-race")
		}
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod", "GOPROXY=off")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
	}
	tool("vet", "./...")

	ca := filepath.Join(dir, "ca.pem")
	require.NoError(t, os.WriteFile(ca, server.CAPEM(), 0o600))
	key := server.Credentials()
	env := append(os.Environ(),
		"DSQL_URL=dsql://admin@"+server.Endpoint()+"/postgres?dial_address="+server.Addr()+"&sslrootcert="+ca,
		"AWS_ACCESS_KEY_ID="+key.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+key.SecretAccessKey, "AWS_REGION="+server.Region())
	build := []string{"build", "-o", dir + "/bin/"}
	for pkg := range runs {
		build = append(build, "./"+pkg)
	}
	tool(build...)
	for pkg, b := range runs {
		_, comment, ok := strings.Cut(b.code, "// Output:")
		require.True(t, ok, "%s is to be run, but does not say what it prints in an Output comment", b.at)
		comment, _, _ = strings.Cut(comment, "\n}")
		cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "bin", pkg))
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", b.at, out)
		want := strings.ReplaceAll(strings.ReplaceAll(comment, "\t", ""), "\n// ", "\n")
		require.Equal(t, strings.TrimSpace(want), strings.TrimSpace(string(out)), b.at)
	}
}

// raced tells whether this test was built with the race detector.
func raced() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

var (
	link    = regexp.MustCompile(`\]\(([^)#:]*)(?:#([^):]*))?\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
)

// Links between pages and into the tree lead to a file, and to a heading of it if they name one.
func TestPageLinks(t *testing.T) {
	for _, page := range append(pages(t), "CONTRIBUTING.md", "SECURITY.md") {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			target := page
			if m[1] != "" {
				target = filepath.Join(filepath.Dir(page), m[1])
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: the link to %s leads nowhere", page, m[1])
			} else if m[2] != "" && !slices.Contains(anchors(t, target), m[2]) {
				t.Errorf("%s: %s has no heading for #%s", page, target, m[2])
			}
		}
	}
}

// anchors returns the anchors that GitHub gives to the headings of a page.
func anchors(t *testing.T, page string) []string {
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	var found []string
	for _, m := range heading.FindAllStringSubmatch(string(text), -1) {
		words := regexp.MustCompile(`[^\p{L}\p{N}_ -]`).ReplaceAllString(strings.ToLower(m[1]), "")
		found = append(found, strings.ReplaceAll(words, " ", "-"))
	}
	return found
}

var (
	testName = regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z]\\w*)(…?)`")
	codeName = regexp.MustCompile("`(?:\\w+\\.)?([A-Za-z]\\w+)`")
)

// The tests that pages name exist, and so does all code that the pages for contributors name. A
// name that ends in … stands for those that begin with it.
func TestPageNames(t *testing.T) {
	names := map[string]bool{}
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" || path == "docs_test.go" {
			return err
		}
		text, err := os.ReadFile(path)
		for name := range strings.FieldsFuncSeq(string(text), func(r rune) bool {
			return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
		}) {
			names[name] = true
		}
		return err
	})
	require.NoError(t, err)
	contributors := []string{"CONTRIBUTING.md", filepath.Join("docs", "architecture.md")}
	for _, page := range append(pages(t), contributors[0]) {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		found := testName.FindAllStringSubmatch(string(text), -1)
		if slices.Contains(contributors, page) {
			found = append(found, codeName.FindAllStringSubmatch(string(text), -1)...)
		}
		for _, m := range found {
			exists := names[m[1]]
			if len(m) == 3 && m[2] != "" {
				for name := range names {
					exists = exists || strings.HasPrefix(name, m[1])
				}
			}
			if !exists {
				t.Errorf("%s names %s, and there is no such name in the code", page, m[0])
			}
		}
	}
}

// dependabot.yml has an entry for every module.
func TestDependabot(t *testing.T) {
	config, err := os.ReadFile(filepath.Join(".github", "dependabot.yml"))
	require.NoError(t, err)
	ecosystems := map[string]string{"go.mod": "gomod", "package.json": "npm"}
	found := 0
	err = filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.Name() == "node_modules" {
			return fs.SkipDir
		}
		if ecosystem := ecosystems[entry.Name()]; ecosystem != "" {
			found++
			directory := "/" + strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), ".")
			entry := fmt.Sprintf("package-ecosystem: %s\n    directory: %s\n", ecosystem, directory)
			if !strings.Contains(string(config), entry) {
				t.Errorf("dependabot.yml has no entry for %s; add:\n  - %s", path, entry)
			}
		}
		return nil
	})
	require.NoError(t, err)
	require.NotZero(t, found)
}

// All that the package pages show has an example: functions and types one of their own, a type maybe
// for a method; methods, variables and one constant of each group are used in one at least.
func TestExamples(t *testing.T) {
	for _, dir := range []string{".", "dsqltx", "dsqldoctor", "dsqltest"} {
		path := pathpkg.Join("github.com/dsqlgo/dsql", dir)
		p, used := readPackage(t, dir, path)
		has := func(examples []*doc.Example, name string) {
			if len(examples) == 0 {
				t.Errorf("%s: func Example%s is missing", path, name)
			}
		}
		uses := func(name string) {
			if !used[name] {
				t.Errorf("%s: no example uses %s", path, name)
			}
		}
		for _, v := range p.Vars {
			for _, name := range v.Names {
				uses(name)
			}
		}
		groups := slices.Clone(p.Consts)
		functions := slices.Clone(p.Funcs)
		for _, typ := range p.Types {
			functions = append(functions, typ.Funcs...)
			examples := slices.Clone(typ.Examples)
			for _, method := range typ.Methods {
				examples = append(examples, method.Examples...)
				if len(method.Examples) == 0 && method.Name != "String" && method.Name != "Format" { // fmt calls these
					uses(method.Name)
				}
			}
			has(examples, typ.Name)
			groups = append(groups, typ.Consts...)
		}
		for _, group := range groups {
			if !slices.ContainsFunc(group.Names, func(name string) bool { return used[name] }) {
				t.Errorf("%s: no example uses one of %s", path, group.Names)
			}
		}
		for _, f := range functions {
			has(f.Examples, f.Name)
		}
	}
}

// readPackage reads a package with its examples, and the names that these use.
func readPackage(t *testing.T, dir, path string) (p *doc.Package, used map[string]bool) {
	sources, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	fset := token.NewFileSet()
	var files []*ast.File
	for _, source := range sources {
		file, err := parser.ParseFile(fset, source, nil, parser.ParseComments)
		require.NoError(t, err)
		files = append(files, file)
	}
	used = map[string]bool{}
	for _, file := range files {
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && strings.HasPrefix(f.Name.Name, "Example") {
				ast.Inspect(f, func(n ast.Node) bool {
					if s, ok := n.(*ast.SelectorExpr); ok {
						used[s.Sel.Name] = true
					}
					return true
				})
			}
		}
	}
	// Of a file for tests only the examples count.
	p, err = doc.NewFromFiles(fset, files, path)
	require.NoError(t, err)
	return p, used
}
