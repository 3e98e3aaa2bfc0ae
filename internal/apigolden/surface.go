package apigolden

import (
	"go/ast"
	"go/token"
	"go/types"
	"slices"
	"strings"
)

// An item is one exported thing.
type item struct {
	line string // its signature
	name *ast.Ident
	doc  bool // it has a comment
	top  bool // it is a type, function or value of the package
}

// Surface lists what the files of a package export, one signature a line, sorted.
func Surface(files []*ast.File) string {
	var lines []string
	for _, it := range items(files) {
		lines = append(lines, it.line+"\n")
	}
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), "")
}

// Undocumented returns the exported constants, variables, functions, types,
// methods, fields and interface methods that have no doc comment and no comment
// at the end of their line. In a group each needs its own.
func Undocumented(files []*ast.File) []*ast.Ident {
	var bare []*ast.Ident
	for _, it := range items(files) {
		if !it.doc {
			bare = append(bare, it.name)
		}
	}
	return bare
}

func items(files []*ast.File) []item {
	var list []item
	for _, f := range files {
		for _, decl := range f.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				list = append(list, function(d)...)
			case *ast.GenDecl:
				list = append(list, general(d)...)
			}
		}
	}
	return slices.DeleteFunc(list, func(it item) bool { return !it.name.IsExported() })
}

// function is a function, or a method of an exported type.
func function(d *ast.FuncDecl) []item {
	it := item{name: d.Name, doc: d.Doc != nil, top: d.Recv == nil}
	signature := strings.TrimPrefix(types.ExprString(d.Type), "func")
	if params := d.Type.TypeParams; params != nil {
		signature = typeParams(params) + signature
	}
	if d.Recv == nil {
		it.line = "func " + d.Name.Name + signature
		return []item{it}
	}
	recv := d.Recv.List[0].Type
	if !ast.IsExported(receiver(recv)) {
		return nil
	}
	it.line = "method (" + types.ExprString(recv) + ") " + d.Name.Name + signature
	return []item{it}
}

// receiver is the name of a receiver's type.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

func typeParams(params *ast.FieldList) string {
	var list []string
	for _, f := range params.List {
		var names []string
		for _, n := range f.Names {
			names = append(names, n.Name)
		}
		list = append(list, strings.Join(names, ", ")+" "+types.ExprString(f.Type))
	}
	return "[" + strings.Join(list, ", ") + "]"
}

// general is the items of a const, var or type declaration.
func general(d *ast.GenDecl) []item {
	var list []item
	single := !d.Lparen.IsValid() && d.Doc != nil
	var inherited ast.Expr // the type that constants of a group take over
	for _, spec := range d.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			list = append(list, typ(s, single || s.Doc != nil || s.Comment != nil)...)
		case *ast.ValueSpec:
			if s.Type != nil || s.Values != nil {
				inherited = s.Type
			}
			list = append(list, values(d.Tok, s, inherited, single)...)
		}
	}
	return list
}

// values is the names of one line of a const or var declaration. The values of
// constants belong to the surface, those of variables do not.
func values(tok token.Token, s *ast.ValueSpec, t ast.Expr, documented bool) []item {
	var list []item
	for i, name := range s.Names {
		line := tok.String() + " " + name.Name
		if t != nil {
			line += " " + types.ExprString(t)
		}
		if tok == token.CONST && i < len(s.Values) {
			line += " = " + types.ExprString(s.Values[i])
		}
		list = append(list, item{line: line, name: name, doc: documented || s.Doc != nil || s.Comment != nil, top: true})
	}
	return list
}

// typ is a type and what is exported within it.
func typ(s *ast.TypeSpec, documented bool) []item {
	if !s.Name.IsExported() {
		return nil
	}
	line := "type " + s.Name.Name
	if s.TypeParams != nil {
		line += typeParams(s.TypeParams)
	}
	if s.Assign.IsValid() {
		line += " ="
	}
	it := item{name: s.Name, doc: documented, top: true}
	switch t := s.Type.(type) {
	case *ast.StructType:
		it.line = line + " struct"
		return append([]item{it}, fields(it.line, t.Fields)...)
	case *ast.InterfaceType:
		it.line = line + " interface"
		return append([]item{it}, fields(it.line, t.Methods)...)
	default:
		it.line = line + " " + types.ExprString(t)
		return []item{it}
	}
}

// fields is the fields of a struct or the methods of an interface. What is
// embedded is documented where it is declared.
func fields(owner string, list *ast.FieldList) []item {
	var found []item
	for _, f := range list.List {
		text := types.ExprString(f.Type)
		if len(f.Names) == 0 {
			found = append(found, item{line: owner + ", embedded " + text, name: embedded(f.Type), doc: true})
			continue
		}
		for _, name := range f.Names {
			line := owner + ", " + name.Name + " " + text
			if _, method := f.Type.(*ast.FuncType); method && strings.HasSuffix(owner, " interface") {
				line = owner + ", " + name.Name + strings.TrimPrefix(text, "func")
			}
			found = append(found, item{line: line, name: name, doc: f.Doc != nil || f.Comment != nil})
		}
	}
	return found
}

// embedded is the name of an embedded type. The unnamed elements of a
// constraint, such as ~int | ~string, count as exported.
func embedded(e ast.Expr) *ast.Ident {
	if sel, ok := e.(*ast.SelectorExpr); ok {
		return sel.Sel
	}
	if name := receiver(e); name != "" {
		return &ast.Ident{NamePos: e.Pos(), Name: name}
	}
	return &ast.Ident{NamePos: e.Pos(), Name: "Element"}
}
