//! Two judges of words, of one half of the held-out pairs each: what a judge has chosen is better in its eyes than it
//! is, so the one that chooses RL's policy does not say how good it is (method C, pitfall 18).

use beckon_shared::lexical::LexicalModel;
use beckon_shared::preference::Pair;
use beckon_shared::preference::unit::Units;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// The judges of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Judges {
    /// Watches RL, and may choose an earlier policy than its last.
    pub choosing: Option<LexicalModel>,
    /// Compares the policies for the report.
    pub scoring: Option<LexicalModel>,
}

impl Judges {
    /// From held-out pairs, halved by `seed`. Where they are too few for two judges nobody chooses, and all of them
    /// make the one who scores, if they are enough for that.
    pub fn of(held_out: &[Pair], seed: u64) -> Self {
        let halves = halves(held_out, seed).map(|half| LexicalModel::judge(&half));
        match halves {
            [Some(choosing), Some(scoring)] => Self { choosing: Some(choosing), scoring: Some(scoring) },
            _ => Self { choosing: None, scoring: LexicalModel::judge(held_out) },
        }
    }
}

/// The pairs in two parts, of every data set about as many in each, and no unit in both.
fn halves(pairs: &[Pair], seed: u64) -> [Vec<Pair>; 2] {
    let units = Units::of(pairs);
    let mut by_unit: BTreeMap<(&str, Cow<str>), Vec<&Pair>> = BTreeMap::new();
    for pair in pairs {
        by_unit.entry((pair.source.as_str(), units.of_pair(pair))).or_default().push(pair);
    }
    let mut groups: Vec<((&str, Cow<str>), Vec<&Pair>)> = by_unit.into_iter().collect();
    groups.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    // the large ones first: the small ones even out what they leave
    groups.sort_by_key(|(_, pairs)| Reverse(pairs.len()));
    let mut halves = [Vec::new(), Vec::new()];
    let mut n_of_source: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    for ((source, _), pairs) in groups {
        let n = n_of_source.entry(source).or_default();
        let half = usize::from((n[1], halves[1].len()) < (n[0], halves[0].len()));
        n[half] += pairs.len();
        halves[half].extend(pairs.into_iter().cloned());
    }
    halves
}

#[cfg(test)]
mod tests {
    use super::*;
    use beckon_shared::preference::PairKind;
    use beckon_shared::prompt::Prompt;
    use std::collections::BTreeSet;

    /// `n` pairs of `source`, the first third of them of one group.
    fn pairs(source: &str, n: usize) -> Vec<Pair> {
        let pair = |i: usize| Pair {
            source: source.to_owned(),
            group: format!("group {}", if i < n / 3 { 0 } else { i / 3 }),
            prompt: Prompt::from_query("rice"),
            chosen: format!("best{i} rice"),
            rejected: format!("dull{i} rice"),
            label: 0.9,
            weight: 1.0,
            kind: PairKind::Slate,
            logit_variance: 0.0,
        };
        (0..n).map(pair).collect()
    }

    #[test]
    fn halves_share_no_group_and_each_has_half_of_every_source() {
        let all = [pairs("large", 300), pairs("small", 60)].concat();
        let [one, other] = halves(&all, 7);
        assert_eq!(one.len() + other.len(), all.len());
        let groups = |half: &[Pair]| -> BTreeSet<(String, String)> {
            half.iter().map(|p| (p.source.clone(), p.group.clone())).collect()
        };
        assert!(groups(&one).is_disjoint(&groups(&other)));
        for (source, n) in [("large", 300), ("small", 60)] {
            let of_source = one.iter().filter(|p| p.source == source).count();
            assert!(of_source.abs_diff(n / 2) <= 3, "{of_source} of {n} of {source}");
        }
        assert_eq!(halves(&all, 7), [one.clone(), other]);
        assert_ne!(halves(&all, 8)[0], one);
    }

    #[test]
    fn who_chooses_does_not_score() {
        let judges = Judges::of(&pairs("log", 300), 1);
        let (choosing, scoring) = (judges.choosing.expect("enough pairs"), judges.scoring.expect("enough pairs"));
        assert_ne!(choosing, scoring);
        // each knows the words of its own half
        let knows = |judge: &LexicalModel, i: usize| judge.value(&format!("best{i}")) > 0.0;
        assert!((0..300).all(|i| knows(&choosing, i) != knows(&scoring, i)));
        let few = Judges::of(&pairs("log", 150), 1);
        assert!(few.choosing.is_none() && few.scoring == LexicalModel::judge(&pairs("log", 150)));
        assert!(Judges::of(&pairs("log", 50), 1).scoring.is_none());
    }
}
