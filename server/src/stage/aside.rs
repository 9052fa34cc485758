//! What a stage sets aside from its training data, to decide which weights are kept: whole groups, so that nothing of
//! a user, query or test stands on both sides. Of pairs whole units ([`beckon_shared::preference::unit`]), so that no click does.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;

/// Groups (source, group) drawn by `seed`: of each source as many as `n_of` says for the number that it has.
pub fn groups_aside<'a>(
    groups: impl IntoIterator<Item = (&'a str, &'a str)>,
    n_of: impl Fn(usize) -> usize,
    seed: u64,
) -> BTreeSet<(&'a str, &'a str)> {
    let groups: BTreeSet<(&str, &str)> = groups.into_iter().collect();
    let sources: BTreeSet<&str> = groups.iter().map(|g| g.0).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut aside = BTreeSet::new();
    for source in sources {
        let mut of_source: Vec<(&str, &str)> = groups.iter().filter(|g| g.0 == source).copied().collect();
        of_source.shuffle(&mut rng);
        let n = n_of(of_source.len());
        aside.extend(of_source.into_iter().take(n));
    }
    aside
}

/// `n` items (all, where there are fewer) taken evenly from a list.
pub fn evenly<T: Clone>(items: &[T], n: usize) -> Vec<T> {
    let n = n.min(items.len());
    (0..n).map(|i| items[i * items.len() / n].clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_groups_of_each_source_are_drawn_by_seed() {
        let names: Vec<String> = (0..40).map(|g| format!("g{g}")).collect();
        let groups = || {
            let of = |source: &'static str, n: usize| names.iter().take(n).map(move |g| (source, g.as_str()));
            of("large", 40).chain(of("large", 40)).chain(of("small", 10))
        };
        let tenth = |n: usize| if n < 20 { 0 } else { n / 10 };
        let aside = groups_aside(groups(), tenth, 1);
        assert_eq!(aside.len(), 4, "a group that comes twice is one");
        assert!(aside.iter().all(|(source, _)| *source == "large"));
        assert_eq!(aside, groups_aside(groups(), tenth, 1));
        assert_ne!(aside, groups_aside(groups(), tenth, 2));
    }

    #[test]
    fn evenly_takes_from_the_whole_list() {
        assert_eq!(evenly(&[0, 1, 2, 3, 4, 5, 6, 7], 4), vec![0, 2, 4, 6]);
        assert_eq!(evenly(&[1, 2], 5), vec![1, 2]);
        assert!(evenly::<u8>(&[], 3).is_empty());
    }
}
