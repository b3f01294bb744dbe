//! The tree against a naive one as RFC 6962 defines it, against known
//! answers, and through tiles.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

use exodrive_proof::{
    Hash,
    tile::{self, Tile},
    tree::{self, Misplaced, Node, Tree, node_hash},
};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

/// RFC 6962, section 2.1, word for word.
fn mth(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Sha256::digest([]).into(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            node_hash(&mth(left), &mth(right))
        }
    }
}

fn path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() <= 1 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
    if index < left.len() {
        [path(index, left), vec![mth(right)]].concat()
    } else {
        [path(index - left.len(), right), vec![mth(left)]].concat()
    }
}

fn subproof(old: usize, leaves: &[Hash], whole: bool) -> Vec<Hash> {
    if old == leaves.len() {
        return if whole { Vec::new() } else { vec![mth(leaves)] };
    }
    let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
    if old <= left.len() {
        [subproof(old, left, whole), vec![mth(right)]].concat()
    } else {
        [subproof(old - left.len(), right, false), vec![mth(left)]].concat()
    }
}

fn leaves(count: u64) -> Vec<Hash> {
    (0..count).map(|it| Sha256::digest(it.to_be_bytes()).into()).collect()
}

fn grown(leaves: &[Hash]) -> Tree {
    let mut tree = Tree::new();
    leaves.iter().for_each(|leaf| tree.push_leaf(*leaf));
    tree
}

/// Nodes straight from the leaves.
fn nodes(leaves: &[Hash]) -> impl Fn(u8, u64) -> Result<Hash, String> {
    move |level, index| {
        let from = (index << level) as usize;
        leaves
            .get(from..from + (1 << level))
            .map(mth)
            .ok_or_else(|| format!("({level}, {index}) is no complete subtree"))
    }
}

/// The eight leaves of the certificate-transparency project's tests and the
/// roots of the trees over the first one, two, … of them.
#[test]
fn known_answers() {
    let inputs = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ];
    let roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    assert_eq!(
        hex::encode(Tree::new().root()),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
    let mut tree = Tree::new();
    for (input, root) in inputs.iter().zip(roots) {
        let input = hex::decode(input).unwrap();
        tree.push_leaf(Sha256::digest([&[0], input.as_slice()].concat()).into());
        assert_eq!(hex::encode(tree.root()), root, "size {}", tree.size());
    }
}

#[test]
fn trees_and_proofs_of_every_size_are_those_of_the_rfc() {
    let all = leaves(300);
    for size in 0..=all.len() {
        let part = &all[..size];
        assert_eq!(grown(part).root(), mth(part), "size {size}");
    }
    for size in (0..=70).chain([127, 128, 129, 255, 256, 257, 300]) {
        let part = &all[..size];
        let root = mth(part);
        let (to, nodes) = (size as u64, nodes(part));
        for index in 0..to {
            let proof = tree::inclusion_proof(index, to, &nodes).unwrap();
            assert_eq!(proof, path(index as usize, part), "leaf {index} of {size}");
            let leaf = &part[index as usize];
            assert!(tree::verify_inclusion(leaf, index, to, &proof, &root));
        }
        for from in 0..=to {
            let proof = tree::consistency_proof(from, to, &nodes).unwrap();
            if from > 0 {
                assert_eq!(proof, subproof(from as usize, part, true), "{from} to {size}");
            }
            let old = mth(&part[..from as usize]);
            assert!(tree::verify_consistency(from, to, &old, &root, &proof), "{from} to {size}");
        }
    }
}

#[test]
fn proofs_of_absent_leaves_are_rejected() {
    let all = leaves(5);
    let root = mth(&all);
    assert!(tree::inclusion_proof(5, 5, &nodes(&all)).unwrap().is_empty());
    assert!(!tree::verify_inclusion(&all[0], 5, 5, &[], &root));
    assert!(!tree::verify_inclusion(&all[0], 0, 0, &[], &root));
    assert!(!tree::verify_consistency(6, 5, &root, &root, &[]));
    assert!(!tree::verify_consistency(0, 5, &root, &root, &[]));
    assert!(!tree::verify_consistency(3, 5, &root, &root, &[]));
}

#[test]
fn a_node_is_pushed_only_where_the_tree_ends() {
    let mut tree = grown(&leaves(2));
    let hash = [0; 32];
    for (level, index) in [(0, 1), (0, 3), (2, 0), (1, 0), (63, 0), (64, 0), (200, 0), (62, 4)] {
        let refused = tree.push_node(Node { level, index, hash });
        assert_eq!(refused, Err(Misplaced { level, index, size: 2 }));
    }
    assert_eq!(tree, grown(&leaves(2)));
}

proptest! {
    #[test]
    fn a_changed_proof_is_rejected(size in 2_u64..300, at: prop::sample::Index, change in 0..6) {
        let all = leaves(size);
        let root = mth(&all);
        let index = at.index(size as usize) as u64;
        let spoil = |proof: &mut Vec<Hash>| match (change, proof.len()) {
            (0, _) | (_, 0) => proof.push([0; 32]),
            (1, _) => { proof.pop(); }
            (2, _) => { proof.remove(0); }
            (3, len) => proof[at.index(len)][0] ^= 1,
            (4, _) => proof.insert(0, [0; 32]),
            (_, len) => { let copy = proof[len - 1]; proof.push(copy); }
        };
        let mut proof = tree::inclusion_proof(index, size, &nodes(&all)).unwrap();
        prop_assert!(!tree::verify_inclusion(&[9; 32], index, size, &proof, &root));
        spoil(&mut proof);
        prop_assert!(!tree::verify_inclusion(&all[index as usize], index, size, &proof, &root));

        let from = index.max(1);
        let old = mth(&all[..from as usize]);
        let mut proof = tree::consistency_proof(from, size, &nodes(&all)).unwrap();
        prop_assert!(!tree::verify_consistency(from, size, &[9; 32], &root, &proof));
        prop_assert!(!tree::verify_consistency(from, size, &old, &[9; 32], &proof));
        spoil(&mut proof);
        prop_assert!(!tree::verify_consistency(from, size, &old, &root, &proof));
    }

    #[test]
    fn ranges_of_nodes_stand_for_their_leaves(size in 1_u64..2000, from: prop::sample::Index, to: prop::sample::Index) {
        let all = leaves(size);
        let (from, to) = (from.index(all.len()), to.index(all.len()));
        let (from, to) = (from.min(to) as u64, from.max(to) as u64);
        let mut tree = grown(&all[..from as usize]);
        for (level, index) in tree::canonical(from, to) {
            let hash = nodes(&all)(level, index).unwrap();
            tree.push_node(Node { level, index, hash }).unwrap();
        }
        prop_assert_eq!(tree.size(), to);
        all[to as usize..].iter().for_each(|leaf| tree.push_leaf(*leaf));
        prop_assert_eq!(tree.root(), mth(&all));
        let edge: Vec<_> = tree.edge().iter().map(|node| node.hash).collect();
        prop_assert_eq!(tree::root_of(&edge), tree.root());
        prop_assert_eq!(Tree::from_edge(size, &edge), Some(tree));
        prop_assert_eq!(Tree::from_edge(size, &[edge, vec![[0; 32]]].concat()), None);
    }
}

#[test]
fn every_complete_node_is_reported_once() {
    let all = leaves(300);
    let mut tree = Tree::new();
    let mut reported = Vec::new();
    all.iter().for_each(|leaf| tree.push_leaf_with(*leaf, |node| reported.push(node)));
    for node in &reported {
        assert_eq!(Ok(node.hash), nodes(&all)(node.level, node.index));
    }
    let expected: u64 = (0..9).map(|level| 300_u64 >> level).sum();
    assert_eq!(reported.len() as u64, expected);
}

/// The storage of a server: tiles, filled as the tree grows.
#[test]
fn tiles_give_every_node() {
    let size = 70_000_u64;
    let all = leaves(size);
    let mut rows: Vec<Vec<Hash>> = vec![Vec::new(); 3];
    let mut tree = Tree::new();
    for leaf in &all {
        tree.push_leaf_with(*leaf, |node| {
            if node.level % tile::HEIGHT == 0 {
                rows[usize::from(node.level / tile::HEIGHT)].push(node.hash);
            }
        });
    }
    let hashes = |tile: Tile| {
        let from = (tile.index * tile::WIDTH) as usize;
        &rows[usize::from(tile.level)][from..from + usize::from(tile.width)]
    };
    let mut asked = 0;
    let nodes = |level: u8, index: u64| {
        let tile = Tile::holding(level, index, size).ok_or("not complete")?;
        tile.node(hashes(tile), level, index).ok_or("not in the tile")
    };
    for (level, index) in (0..=16).flat_map(|level| [(level, 0), (level, (size >> level) - 1)]) {
        let from = (index << level) as usize;
        assert_eq!(nodes(level, index), Ok(mth(&all[from..from + (1 << level)])));
        assert_eq!(nodes(level, size >> level), Err("not complete"));
        asked += 1;
    }
    assert_eq!(asked, 34);
    let root = tree.root();
    for index in [0, 255, 256, 65_535, 65_536, 69_999] {
        let proof = tree::inclusion_proof(index, size, &nodes).unwrap();
        assert!(tree::verify_inclusion(&all[index as usize], index, size, &proof, &root));
        let needed = tree::inclusion_nodes(index, size);
        assert!(needed.iter().all(|(level, index)| nodes(*level, *index).is_ok()));
        let proof = tree::consistency_proof(index, size, &nodes).unwrap();
        let old = grown(&all[..index as usize]).root();
        assert!(tree::verify_consistency(index, size, &old, &root, &proof));
    }
}

#[test]
fn tiles_change_where_the_tree_grows() {
    let tile = |level, index, width| Tile { level, index, width };
    assert_eq!(tile::changed(5, 5), []);
    assert_eq!(tile::changed(0, 1), [tile(0, 0, 1)]);
    assert_eq!(tile::changed(255, 257), [tile(0, 0, 256), tile(0, 1, 1), tile(1, 0, 1)]);
    assert_eq!(tile::changed(256, 257), [tile(0, 1, 1)]);
    assert_eq!(tile::changed(65_535, 65_536), [tile(0, 255, 256), tile(1, 0, 256), tile(2, 0, 1)]);
    assert_eq!(Tile::of(1, 0, 255), None);
    assert_eq!(Tile::of(0, 1, 256), None);
    assert_eq!(Tile::of(60, 0, u64::MAX), None);
}

#[test]
fn paths_of_tiles_are_those_of_c2sp() {
    for (path, level, index, width) in [
        ("tile/0/000", 0, 0, 256),
        ("tile/1/x001/067.p/8", 1, 1067, 8),
        ("tile/0/x001/x234/067", 0, 1_234_067, 256),
        ("tile/3/005.p/255", 3, 5, 255),
    ] {
        let tile = Tile { level, index, width };
        assert_eq!(tile.to_string(), path);
        assert_eq!(path.parse(), Ok(tile));
    }
    for path in [
        "",
        "tile/0",
        "tile/0/",
        "tile/0/0",
        "tile/0/0000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/08",
        "tile/00/000",
        "tile/0/001/067",
        "tile/0/x000/067",
        "tile/0/x001",
        "tile/64/000",
        "tile/0/+01",
        "tile/0/x99/x999/x999/x999/x999/x999/x999/999",
        "tile/-1/000",
    ] {
        assert_eq!(path.parse::<Tile>(), Err(tile::NotATile), "{path}");
    }
}
