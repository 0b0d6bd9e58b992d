//! A reader of flattened device trees: to compare ours with another's, and to show one.
//!
//! Devicetree Specification v0.4, chapter 5. The bytes may come from anyone: every offset is checked, nesting is
//! bounded, nothing recurses.

use std::collections::BTreeMap;

/// Deepest nesting that is read; the writer's own limit.
const DEPTH_LIMIT: usize = 64;
const MAGIC: u32 = 0xd00d_feed;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// Why bytes are not a device tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a device tree: {0}")]
pub struct NotATree(&'static str);

/// A node: its properties by name.
pub type Props = BTreeMap<String, Vec<u8>>;

/// A tree: its nodes by path ("/", "/soc/serial@10000000"), in order of the path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// The nodes.
    pub nodes: BTreeMap<String, Props>,
}

impl Tree {
    /// Reads a flattened tree.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn read(bytes: &[u8]) -> Result<Tree, NotATree> {
        let header = |index: usize| be32(bytes, index * 4).ok_or(NotATree("the header is cut short"));
        if header(0)? != MAGIC {
            return Err(NotATree("the magic number is missing"));
        }
        let total = header(1)? as usize;
        let bytes = bytes.get(..total).ok_or(NotATree("it is shorter than its header says"))?;
        let (at, strings) = (header(2)? as usize, header(3)? as usize);
        let structure = bytes.get(at..).ok_or(NotATree("the structure lies outside"))?;
        let strings = bytes.get(strings..).ok_or(NotATree("the strings lie outside"))?;
        read_structure(structure, strings)
    }

    /// The property as text, if it is there and is text.
    pub fn text(&self, path: &str, prop: &str) -> Option<&str> {
        let bytes = self.nodes.get(path)?.get(prop)?;
        std::str::from_utf8(bytes.strip_suffix(&[0])?).ok()
    }

    /// The property as cells.
    pub fn cells(&self, path: &str, prop: &str) -> Option<Vec<u32>> {
        let bytes = self.nodes.get(path)?.get(prop)?;
        let (cells, rest) = bytes.as_chunks::<4>();
        rest.is_empty().then(|| cells.iter().map(|c| u32::from_be_bytes(*c)).collect())
    }

    /// The path of the node with this handle.
    pub fn by_handle(&self, handle: u32) -> Option<&str> {
        let found =
            self.nodes.iter().find(|(_, p)| p.get("phandle").is_some_and(|h| **h == handle.to_be_bytes()));
        found.map(|(path, _)| path.as_str())
    }
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk::<4>().map(|b| u32::from_be_bytes(*b))
}

/// The text up to the first NUL.
fn name(bytes: &[u8]) -> Result<&str, NotATree> {
    let end = bytes.iter().position(|&b| b == 0).ok_or(NotATree("a name has no end"))?;
    bytes.get(..end).and_then(|b| std::str::from_utf8(b).ok()).ok_or(NotATree("a name is not text"))
}

fn read_structure(structure: &[u8], strings: &[u8]) -> Result<Tree, NotATree> {
    const SHORT: NotATree = NotATree("the structure is cut short");
    let mut tree = Tree::default();
    let mut path: Vec<&str> = Vec::new();
    let mut at = 0;
    loop {
        let token = be32(structure, at).ok_or(SHORT)?;
        at += 4;
        match token {
            BEGIN_NODE => {
                let name = name(structure.get(at..).ok_or(SHORT)?)?;
                at = (at + name.len() + 1).next_multiple_of(4);
                path.push(name);
                if path.len() > DEPTH_LIMIT {
                    return Err(NotATree("it is nested too deeply"));
                }
                if tree.nodes.insert(full(&path), Props::new()).is_some() {
                    return Err(NotATree("a node stands twice"));
                }
            }
            END_NODE => drop(path.pop().ok_or(NotATree("a node ends that has not begun"))?),
            PROP => {
                let (len, offset) = be32(structure, at).zip(be32(structure, at + 4)).ok_or(SHORT)?;
                at += 8;
                let end = at.checked_add(len as usize).ok_or(SHORT)?;
                let value = structure.get(at..end).ok_or(SHORT)?;
                at = end.next_multiple_of(4);
                let name = name(strings.get(offset as usize..).ok_or(NotATree("a name lies outside"))?)?;
                let node =
                    tree.nodes.get_mut(&full(&path)).ok_or(NotATree("a property is outside any node"))?;
                if node.insert(name.to_owned(), value.to_vec()).is_some() {
                    return Err(NotATree("a property stands twice"));
                }
            }
            NOP => {}
            END if path.is_empty() && !tree.nodes.is_empty() => return Ok(tree),
            END => return Err(NotATree("it ends within a node")),
            _ => return Err(NotATree("an unknown token")),
        }
    }
}

/// The path of the node that the names lead to; the root's own name is empty.
fn full(path: &[&str]) -> String {
    match path {
        [] | [_] => "/".repeat(path.len()),
        [_, below @ ..] => format!("/{}", below.join("/")),
    }
}
