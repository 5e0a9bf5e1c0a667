//! Which file imports which, read from the paths in the sources.
//!
//! A file imports another if it names a path into it, in a `use` or inline. Three rules decide what a path means:
//! - A path to a name that a module re-exports (`pub use child::Name`) is a path to the file that defines the name.
//! - A module that declares and re-exports its children does not import them by that; it does if it uses the name itself.
//! - Unit tests (`mod tests`) may import everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The crates of the workspace with the folders of their sources.
const CRATES: [(&str, &str); 3] =
    [("blip_serve", "src"), ("generation", "crates/generation/src"), ("image_processor", "crates/image-processor/src")];

/// A path as a list of names; the first is a crate.
type Names = Vec<String>;

/// The sources of all crates, by the path of their module.
pub(super) struct Sources(BTreeMap<Names, Module>);

/// What one file contains.
#[derive(Default)]
struct Module {
    file: String,
    /// Paths of private `use` items and inline paths, absolute.
    imports: BTreeSet<Names>,
    /// Names that other modules find here, and where they are defined.
    reexports: BTreeMap<String, Names>,
    /// Child modules.
    children: BTreeSet<String>,
    /// Names that `use` items introduce.
    introduced: BTreeSet<String>,
    /// Names used outside of `use` items.
    names: BTreeSet<String>,
    /// Paths outside of `use` items, absolute.
    inline: BTreeSet<Names>,
}

impl Sources {
    /// Reads every file of the workspace's crates.
    pub(super) fn read(root: &Path) -> Self {
        let mut modules = BTreeMap::new();
        for (name, folder) in CRATES {
            let folder = root.join(folder);
            for file in rust_files(&folder) {
                let path = module_path(name, file.strip_prefix(&folder).unwrap());
                let text = fs::read_to_string(&file).unwrap();
                let shown = file.strip_prefix(root).unwrap().display().to_string();
                modules.insert(path.clone(), Module::parse(shown, &path, &text));
            }
        }
        Self(modules)
    }

    /// The paths that each file names: module of the file, file, absolute paths.
    pub(super) fn paths(&self) -> impl Iterator<Item = (&[String], &str, &BTreeSet<Names>)> {
        self.0.iter().map(|(path, module)| (&path[..], &module.file[..], &module.imports))
    }

    /// The files that each file imports.
    pub(super) fn graph(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let targets = |module: &Module| {
            let used = module.reexports.iter().filter(|(name, _)| module.names.contains(*name)).map(|(_, path)| path);
            let files = module.imports.iter().chain(used).filter_map(|path| self.resolve(path));
            files.filter(|file| *file != module.file).collect()
        };
        self.0.values().map(|module| (&module.file[..], targets(module))).collect()
    }

    /// The file that a path leads to, if it is one of ours.
    fn resolve(&self, path: &[String]) -> Option<&str> {
        let depth = (1..=path.len()).rev().find(|depth| self.0.contains_key(&path[..*depth]))?;
        let module = &self.0[&path[..depth]];
        match path.get(depth).and_then(|name| module.reexports.get(name)) {
            Some(target) if target != path => self.resolve(&[target, &path[depth + 1..]].concat()),
            _ => Some(&module.file),
        }
    }
}

/// Groups of files that import each other, directly or not.
pub(super) fn cycles(graph: &BTreeMap<&str, BTreeSet<&str>>) -> BTreeSet<BTreeSet<String>> {
    let reachable = |start: &str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![start.to_owned()]);
        while let Some(file) = open.pop() {
            let next = graph.get(&file[..]).into_iter().flatten().map(|file| (*file).to_owned());
            open.extend(next.filter(|file| seen.insert(file.clone())));
        }
        seen
    };
    let reach: BTreeMap<&str, BTreeSet<String>> = graph.keys().map(|file| (*file, reachable(file))).collect();
    let in_cycle = reach.iter().filter(|(file, reached)| reached.contains(**file));
    let group = |file: &str, reached: &BTreeSet<String>| {
        reached.iter().filter(|other| reach[&other[..]].contains(file)).cloned().collect()
    };
    in_cycle.map(|(file, reached)| group(file, reached)).collect()
}

impl Module {
    pub(super) fn parse(file: String, path: &[String], text: &str) -> Self {
        let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{file}: {error}"));
        let mut module = Self { file, ..Self::default() };
        let tokens: Vec<_> = tokens.into_iter().collect();
        module.children = tokens.windows(3).filter_map(child).collect();
        module.walk(&tokens, path);
        // The others begin at a name that a `use` item introduces, and whose path is known from there.
        let Self { imports, inline, introduced, .. } = &mut module;
        imports.extend(inline.iter().filter(|path| !introduced.contains(&path[0])).cloned());
        module
    }

    /// Collects the paths of `tokens`, which are inside the module `scope`.
    fn walk(&mut self, tokens: &[TokenTree], scope: &[String]) {
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            at += match token {
                TokenTree::Ident(word) if word == "mod" => self.skip_or_enter_module(&tokens[at..], scope),
                // The path in `pub(in path)` imports nothing.
                TokenTree::Ident(word) if word == "pub" && is_visibility(tokens.get(at + 1)) => 2,
                // Not the `use<…>` of a captured lifetime.
                TokenTree::Ident(word) if word == "use" && !is_punct(&tokens[at + 1], '<') => {
                    let end = at + tokens[at..].iter().position(|token| is_punct(token, ';')).unwrap();
                    for (path, name) in use_tree(&tokens[at + 1..end]) {
                        self.introduced.insert(name.clone());
                        let path = self.absolute(path, scope);
                        if is_public(&tokens[..at]) {
                            self.reexports.insert(name, path);
                        } else {
                            self.imports.insert(path);
                        }
                    }
                    end - at
                }
                TokenTree::Ident(_) => {
                    let path = path_at(&tokens[at..]);
                    let length = 3 * path.len() - 2;
                    self.names.insert(path[0].clone());
                    if path.len() > 1 && !at.checked_sub(1).is_some_and(|before| is_punct(&tokens[before], ':')) {
                        self.inline.insert(self.absolute(path, scope));
                    }
                    length
                }
                TokenTree::Group(group) => {
                    self.walk(&group.stream().into_iter().collect::<Vec<_>>(), scope);
                    1
                }
                _ => 1,
            };
        }
    }

    /// Handles `mod name;` and `mod name { … }`; returns the number of tokens.
    fn skip_or_enter_module(&mut self, tokens: &[TokenTree], scope: &[String]) -> usize {
        if let [_, TokenTree::Ident(name), TokenTree::Group(body), ..] = tokens
            && name != "tests"
        {
            let inner = [scope, &[name.to_string()]].concat();
            self.walk(&body.stream().into_iter().collect::<Vec<_>>(), &inner);
        }
        3
    }

    /// The path from the root of its crate.
    fn absolute(&self, mut path: Names, scope: &[String]) -> Names {
        let mut base = match path[0].as_str() {
            "crate" => vec![scope[0].clone()],
            "self" | "super" => scope.to_vec(),
            child if self.children.contains(child) => [scope, &[path.remove(0)]].concat(),
            _ => return path,
        };
        while matches!(path.first().map(String::as_str), Some("crate" | "self" | "super")) {
            if path.remove(0) == "super" {
                base.pop();
            }
        }
        base.extend(path);
        base
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let files = walkdir::WalkDir::new(folder).into_iter().map(|entry| entry.unwrap().into_path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// `config/mod.rs` is `crate::config`, `config/fetch.rs` is `crate::config::fetch`, `lib.rs` the crate.
fn module_path(krate: &str, file: &Path) -> Names {
    let names =
        file.with_extension("").components().map(|part| part.as_os_str().display().to_string()).collect::<Names>();
    let names = names.into_iter().filter(|name| name != "mod" && name != "lib");
    std::iter::once(krate.to_owned()).chain(names).collect()
}

fn is_punct(token: &TokenTree, sign: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == sign)
}

/// Whether this can be the `(crate)` of `pub(crate)`.
fn is_visibility(token: Option<&TokenTree>) -> bool {
    matches!(token, Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis)
}

/// Whether the item after these tokens is `pub` in any way.
fn is_public(before: &[TokenTree]) -> bool {
    let is_pub = |token: &TokenTree| matches!(token, TokenTree::Ident(word) if word == "pub");
    match before {
        [.., word, group] if is_visibility(Some(group)) => is_pub(word),
        [.., last] => is_pub(last),
        [] => false,
    }
}

/// The name in `mod name;`.
fn child(tokens: &[TokenTree]) -> Option<String> {
    match tokens {
        [TokenTree::Ident(word), TokenTree::Ident(name), end] if word == "mod" && is_punct(end, ';') => {
            Some(name.to_string())
        }
        _ => None,
    }
}

/// The names at the beginning of the tokens that are joined by `::`; the first token is one.
fn path_at(tokens: &[TokenTree]) -> Names {
    let name = |token: &TokenTree| match token {
        TokenTree::Ident(word) => Some(word.to_string()),
        _ => None,
    };
    let mut names: Names = tokens.first().and_then(name).into_iter().collect();
    while let [first, second, third, ..] = &tokens[3 * names.len() - 2..]
        && is_punct(first, ':')
        && is_punct(second, ':')
    {
        let Some(word) = name(third) else { break };
        names.push(word);
    }
    names
}

/// The paths of a `use`, each with the name that it introduces.
fn use_tree(tokens: &[TokenTree]) -> Vec<(Names, String)> {
    let start = tokens.iter().take_while(|token| is_punct(token, ':')).count();
    let tokens = &tokens[start..];
    let prefix = if matches!(tokens.first(), Some(TokenTree::Ident(_))) { path_at(tokens) } else { Vec::new() };
    let rest = if prefix.is_empty() { tokens } else { &tokens[3 * prefix.len() - 2..] };
    match rest.iter().find(|token| !is_punct(token, ':')) {
        Some(TokenTree::Group(list)) => {
            let items: Vec<_> = list.stream().into_iter().collect();
            let items = items.split(|token| is_punct(token, ',')).filter(|item| !item.is_empty());
            items.flat_map(use_tree).map(|(path, name)| ([&prefix[..], &path].concat(), name)).collect()
        }
        Some(TokenTree::Ident(word)) if word == "as" => vec![(prefix, rest[1].to_string())],
        _ => {
            let name = prefix.last().cloned().unwrap_or_default();
            vec![(prefix, name)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(files: &[(&str, &str)]) -> Sources {
        let module = |(path, text): &(&str, &str)| {
            let path: Names = path.split("::").map(ToOwned::to_owned).collect();
            (path.clone(), Module::parse(path.join("::"), &path, text))
        };
        Sources(files.iter().map(module).collect())
    }

    fn edges(files: &[(&str, &str)]) -> Vec<String> {
        let sources = sources(files);
        let edges =
            |(from, to): (&str, BTreeSet<&str>)| to.into_iter().map(move |to| format!("{from} > {to}")).collect();
        sources.graph().into_iter().flat_map(|edge| -> Vec<String> { edges(edge) }).collect()
    }

    #[test]
    fn every_form_of_a_path_is_an_import() {
        for text in [
            "use crate::b;",
            "use crate::b::{self, X as Y};",
            "use crate::{b::{c, d}, b::e};",
            "use super::b::X;",
            "fn f() { crate::b::g() }",
            "fn f() { println!(\"{}\", super::b::g(1)) }",
            "mod inner { use super::super::b::X; }",
            "type X = Vec<crate::b::X>;",
        ] {
            assert_eq!(edges(&[("k", "mod a; mod b;"), ("k::a", text), ("k::b", "")]), ["k::a > k::b"], "{text}");
        }
        for text in ["// use crate::b;\n", "const A: &str = \"crate::b\";", "mod tests { use crate::b; }", "use b::c;"]
        {
            assert_eq!(edges(&[("k", "mod a; mod b;"), ("k::a", text), ("k::b", "")]), [""; 0], "{text}");
        }
    }

    #[test]
    fn a_re_export_leads_to_the_definition_and_is_an_import_only_if_it_is_used() {
        let files = |parent| [("k", parent), ("k::a", "pub use crate::X; use crate::Y;"), ("k::b", "pub struct X;")];
        assert_eq!(edges(&files("mod a; mod b; pub use b::X;")), ["k::a > k"]);
        assert_eq!(
            edges(&[("k", "mod a; mod b; pub use b::X;"), ("k::a", "use crate::X;"), ("k::b", "")]),
            ["k::a > k::b"]
        );
        assert_eq!(edges(&[("k", "mod b; pub use b::X; fn f() -> X {}"), ("k::b", "")]), ["k > k::b"]);
        assert_eq!(edges(&[("k", "mod b; fn f() { b::g() }"), ("k::b", "")]), ["k > k::b"]);
    }

    #[test]
    fn a_cycle_is_the_group_of_files_that_reach_each_other() {
        let graph = [("a", &["b"][..]), ("b", &["c"]), ("c", &["b", "d"]), ("d", &[])];
        let graph = graph.into_iter().map(|(from, to)| (from, to.iter().copied().collect())).collect();
        assert_eq!(cycles(&graph), BTreeSet::from([["b", "c"].map(String::from).into()]));
    }
}
