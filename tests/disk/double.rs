//! A double of the file system in memory, which makes states that a disk may hold when the power goes.
//!
//! What was written and not synced is there, absent, or torn into sectors; names made, changed or removed in a folder that
//! was not synced since are as before or after, each by itself.

use super::common::Random;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use taskvec::disk::fail::Event;

const SECTOR: usize = 512;
#[derive(Clone, Debug)]
enum Node {
    File { synced: Vec<u8>, pending: Vec<Change> },
    Folder { synced: Names, pending: Vec<Naming> },
}

type Names = BTreeMap<String, usize>;

/// Files by name; folders have no content.
pub type State = BTreeMap<PathBuf, Option<Vec<u8>>>;

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

/// A change of a folder's names.
#[derive(Clone, Debug)]
enum Naming {
    Link(String, usize),
    Unlink(String),
    Rename(String, String, usize),
    Exchange(String, String),
}

/// The file system below a folder, as programs see it and as the disk may hold it.
pub struct Double {
    root: PathBuf,
    nodes: Vec<Node>,
}

impl Double {
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), nodes: vec![Node::Folder { synced: Names::new(), pending: Vec::new() }] }
    }

    fn split(path: &Path) -> (&Path, String) {
        (path.parent().unwrap(), path.file_name().unwrap().to_string_lossy().into_owned())
    }

    /// The node that programs see at `path`.
    fn find(&self, path: &Path) -> usize {
        let parts = path.strip_prefix(&self.root).unwrap();
        parts.iter().fold(0, |node, part| {
            let Node::Folder { synced, pending } = &self.nodes[node] else { panic!("{}", path.display()) };
            names(synced, pending)[&*part.to_string_lossy()]
        })
    }

    fn rename(&mut self, path: &Path, naming: impl FnOnce(String) -> Naming) {
        let (parent, name) = Self::split(path);
        let parent = self.find(parent);
        let Node::Folder { pending, .. } = &mut self.nodes[parent] else { panic!("{}", path.display()) };
        pending.push(naming(name));
    }

    fn add(&mut self, path: &Path, node: Node) {
        let number = self.nodes.len();
        self.nodes.push(node);
        self.rename(path, |name| Naming::Link(name, number));
    }

    fn change(&mut self, path: &Path, change: Change) {
        let node = self.find(path);
        let Node::File { pending, .. } = &mut self.nodes[node] else { panic!("{}", path.display()) };
        pending.push(change);
    }

    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Create(path) => self.add(path, Node::File { synced: Vec::new(), pending: Vec::new() }),
            Event::MakeFolder(path) => self.add(path, Node::Folder { synced: Names::new(), pending: Vec::new() }),
            Event::Write { path, offset, bytes } => {
                self.change(path, Change::Write(usize::try_from(*offset).unwrap(), bytes.clone()));
            }
            Event::SetLen { path, bytes } => self.change(path, Change::Length(usize::try_from(*bytes).unwrap())),
            Event::Sync(path) | Event::SyncFolder(path) => {
                let node = self.find(path);
                match &mut self.nodes[node] {
                    Node::File { synced, pending } => {
                        pending.iter().for_each(|c| write(synced, c, |_| true));
                        pending.clear();
                    }
                    Node::Folder { synced, pending } => {
                        *synced = names(synced, pending);
                        pending.clear();
                    }
                }
            }
            Event::Rename { from, to } => {
                let node = self.find(from);
                let (_, old) = Self::split(from);
                self.rename(to, |new| Naming::Rename(old, new, node));
            }
            Event::Exchange { from, to } => {
                let (_, old) = Self::split(from);
                self.rename(to, |new| Naming::Exchange(old, new));
            }
            Event::Remove(path) => self.rename(path, Naming::Unlink),
        }
    }

    /// What the disk may hold now.
    pub fn crash(&self, random: &mut Random) -> State {
        let mut found = State::new();
        self.crash_below(0, Path::new(""), random, &mut found);
        found
    }

    fn crash_below(&self, node: usize, path: &Path, random: &mut Random, found: &mut State) {
        match &self.nodes[node] {
            Node::File { synced, pending } => {
                let mut bytes = synced.clone();
                for change in pending {
                    match random.below(3) {
                        0 => {}
                        1 => write(&mut bytes, change, |_| true),
                        _ => write(&mut bytes, change, |_| random.below(2) == 0),
                    }
                }
                found.insert(path.to_owned(), Some(bytes));
            }
            Node::Folder { synced, pending } => {
                if node > 0 {
                    found.insert(path.to_owned(), None);
                }
                let kept: Vec<Naming> = pending.iter().filter(|_| random.below(2) == 0).cloned().collect();
                for (name, child) in names(synced, &kept) {
                    self.crash_below(child, &path.join(name), random, found);
                }
            }
        }
    }
}

fn names(synced: &Names, pending: &[Naming]) -> Names {
    let mut names = synced.clone();
    for naming in pending {
        match naming {
            Naming::Link(name, node) => drop(names.insert(name.clone(), *node)),
            Naming::Unlink(name) => drop(names.remove(name)),
            Naming::Rename(old, new, node) => {
                names.retain(|name, n| name != old || n != node);
                names.insert(new.clone(), *node);
            }
            Naming::Exchange(old, new) => {
                let (a, b) = (names.remove(old), names.remove(new));
                names.extend(a.map(|n| (new.clone(), n)));
                names.extend(b.map(|n| (old.clone(), n)));
            }
        }
    }
    names
}

/// Makes a change, of a write only the sectors that `takes` says.
fn write(bytes: &mut Vec<u8>, change: &Change, mut takes: impl FnMut(usize) -> bool) {
    match change {
        Change::Length(length) => {
            if takes(0) {
                bytes.resize(*length, 0);
            }
        }
        Change::Write(offset, new) => {
            let mut at = 0;
            while at < new.len() {
                let end = ((offset + at) / SECTOR * SECTOR + SECTOR - offset).min(new.len());
                if takes(at) {
                    bytes.resize(bytes.len().max(offset + end), 0);
                    bytes[offset + at..offset + end].copy_from_slice(&new[at..end]);
                }
                at = end;
            }
        }
    }
}
