//! Which pairs and anchors meet at which step.
//!
//! A *unit* is what belongs together (a test, a query, a user): the pairs and anchors of a group, which are mostly
//! about the same texts. A pass brings every unit, in an order drawn anew; units of like length stand together, and a
//! step takes items until their distinct texts are as many as its pairs would have if none shared a text. So the cost
//! of a step is that of its texts, and four headlines of a test cost four readings, not twelve.
//!
//! A small source comes more often: one with a k-th of the largest one's pairs sqrt(k) times a pass, so that it is
//! neither drowned nor learnt by heart.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};

/// How often a small source comes in one pass, at most.
const MAX_REPEATS: usize = 4;
/// Pairs (and anchors) of a step, as a multiple of what was asked for, at most: a log of few texts repeats them.
const MAX_CROWD: usize = 4;

/// A pair or an anchor by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    /// A pair.
    Pair(usize),
    /// An anchor.
    Anchor(usize),
}

/// Says what an item is about.
pub trait ItemTexts {
    /// Numbers of its texts; twice the same for an anchor.
    fn texts(&self, item: Item) -> [usize; 2];
}

/// Items that belong together.
#[derive(Debug)]
struct Unit {
    items: Vec<Item>,
    /// Tokens of its longest text.
    length: usize,
    /// How often it comes in a pass.
    repeats: usize,
}

/// A pass: its number, the step that it begins with, and the items of each of its steps.
#[derive(Debug, Clone)]
struct Pass {
    number: usize,
    first: usize,
    steps: Vec<Vec<Item>>,
}

/// The order of a run.
pub struct Plan {
    units: Vec<Unit>,
    n_pairs: usize,
    seed: u64,
    /// The pass that was asked for last.
    pass: RefCell<Option<Pass>>,
}

impl Plan {
    /// Of pairs and anchors, each with its (source, group) and the tokens of its longest text, in the order of their
    /// numbers; `n_pairs` a step, if no two share a text.
    pub fn new<'a>(
        pairs: impl Iterator<Item = ((&'a str, &'a str), usize)>,
        anchors: impl Iterator<Item = ((&'a str, &'a str), usize)>,
        n_pairs: usize,
        seed: u64,
    ) -> Self {
        let mut units: BTreeMap<(&str, &str), Unit> = BTreeMap::new();
        let mut n_of_source: BTreeMap<&str, usize> = BTreeMap::new();
        let pairs = pairs.enumerate().map(|(i, (group, length))| (Item::Pair(i), group, length));
        let anchors = anchors.enumerate().map(|(i, (group, length))| (Item::Anchor(i), group, length));
        for (item, group, length) in pairs.chain(anchors) {
            *n_of_source.entry(group.0).or_default() += usize::from(matches!(item, Item::Pair(_)));
            let unit = units.entry(group).or_insert(Unit { items: Vec::new(), length: 0, repeats: 1 });
            unit.items.push(item);
            unit.length = unit.length.max(length);
        }
        let largest = n_of_source.values().copied().max().unwrap_or(0) as f64;
        for ((source, _), unit) in &mut units {
            let share = largest / n_of_source[source].max(1) as f64;
            unit.repeats = (share.sqrt().round() as usize).clamp(1, MAX_REPEATS);
        }
        Self { units: units.into_values().collect(), n_pairs, seed, pass: RefCell::new(None) }
    }

    /// Items of step `step`, and where in its pass it stands.
    pub fn at(&self, step: usize, about: &impl ItemTexts) -> (Vec<Item>, usize) {
        let mut kept = self.pass.borrow_mut();
        let mut pass = match kept.take() {
            Some(pass) if pass.first <= step => pass,
            _ => Pass { number: 0, first: 0, steps: self.pass(0, about) },
        };
        // a pass without items would never end
        while step >= pass.first + pass.steps.len() && !pass.steps.is_empty() {
            let (number, first) = (pass.number + 1, pass.first + pass.steps.len());
            pass = Pass { number, first, steps: self.pass(number, about) };
        }
        let position = step - pass.first;
        let items = pass.steps.get(position).cloned().unwrap_or_default();
        *kept = Some(pass);
        (items, position)
    }

    fn pass(&self, number: usize, about: &impl ItemTexts) -> Vec<Vec<Item>> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(number as u64);
        let mut order: Vec<&Unit> =
            self.units.iter().flat_map(|unit| std::iter::repeat_n(unit, unit.repeats)).collect();
        order.shuffle(&mut rng);
        order.sort_by_key(|unit| unit.length);
        let mut steps: Vec<Vec<Item>> = Vec::new();
        let mut texts: HashSet<usize> = HashSet::new();
        let (mut n_pairs, mut n_anchors) = (0, 0);
        let is_full = |n_texts: usize, n: usize| n_texts >= 2 * self.n_pairs || n >= MAX_CROWD * self.n_pairs;
        for item in order.iter().flat_map(|unit| &unit.items) {
            if steps.is_empty() || is_full(texts.len(), n_pairs.max(n_anchors)) {
                steps.push(Vec::new());
                texts.clear();
                (n_pairs, n_anchors) = (0, 0);
            }
            texts.extend(about.texts(*item));
            match item {
                Item::Pair(_) => n_pairs += 1,
                Item::Anchor(_) => n_anchors += 1,
            }
            if let Some(step) = steps.last_mut() {
                step.push(*item);
            }
        }
        steps.shuffle(&mut rng);
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten groups of a large source with 6 pairs of 4 texts and 4 anchors each, 2 of a small one with a pair each, and
    /// a group that has anchors only.
    struct Log {
        pairs: Vec<((&'static str, String), [usize; 2])>,
        anchors: Vec<((&'static str, String), usize)>,
    }

    impl ItemTexts for Log {
        fn texts(&self, item: Item) -> [usize; 2] {
            match item {
                Item::Pair(i) => self.pairs[i].1,
                Item::Anchor(i) => [self.anchors[i].1; 2],
            }
        }
    }

    fn log() -> Log {
        let mut log = Log { pairs: Vec::new(), anchors: Vec::new() };
        for g in 0..10 {
            let group = || ("large", format!("g{g}"));
            for a in 0..4 {
                log.anchors.push((group(), 4 * g + a));
                log.pairs.extend((0..a).map(|b| (group(), [4 * g + a, 4 * g + b])));
            }
        }
        log.pairs.extend((0..2).map(|g| (("small", format!("s{g}")), [100 + 2 * g, 101 + 2 * g])));
        log.anchors.extend((0..3).map(|a| (("small", "none".to_owned()), 200 + a)));
        log
    }

    fn plan(log: &Log, seed: u64) -> Plan {
        let length = |text: usize| 5 + text % 7;
        let pairs = log.pairs.iter().map(|((s, g), [a, b])| ((*s, g.as_str()), length(*a).max(length(*b))));
        let anchors = log.anchors.iter().map(|((s, g), a)| ((*s, g.as_str()), length(*a)));
        Plan::new(pairs, anchors, 6, seed)
    }

    #[test]
    fn a_pass_brings_every_item_and_a_small_source_more_often() {
        let log = log();
        let plan = plan(&log, 1);
        let n_steps = plan.pass(0, &log).len();
        let items: Vec<Item> = (0..n_steps).flat_map(|step| plan.at(step, &log).0).collect();
        let count = |wanted: Item| items.iter().filter(|item| **item == wanted).count();
        assert!((0..60).all(|i| count(Item::Pair(i)) == 1) && (0..40).all(|i| count(Item::Anchor(i)) == 1));
        // 60 pairs against 2: sqrt(30) is more than four
        assert!((60..62).all(|i| count(Item::Pair(i)) == MAX_REPEATS));
        assert!((40..43).all(|i| count(Item::Anchor(i)) == MAX_REPEATS));
    }

    #[test]
    fn a_step_is_as_dear_as_its_texts() {
        let log = log();
        let plan = plan(&log, 1);
        let steps = plan.pass(0, &log);
        for step in &steps {
            let texts: HashSet<usize> = step.iter().flat_map(|item| log.texts(*item)).collect();
            assert!(texts.len() <= 13, "{} texts", texts.len());
        }
        let most = steps.iter().map(|s| s.iter().filter(|i| matches!(i, Item::Pair(_))).count()).max();
        assert!(most > Some(12), "three tests of four texts have 18 pairs: {most:?}");
    }

    #[test]
    fn steps_follow_from_seed_and_number_in_whatever_order_they_are_asked_for() {
        let log = log();
        let (one, two) = (plan(&log, 1), plan(&log, 1));
        let forward: Vec<_> = (0..40).map(|step| one.at(step, &log)).collect();
        let backward: Vec<_> = (0..40).rev().map(|step| two.at(step, &log)).collect();
        assert!(forward.iter().eq(backward.iter().rev()));
        assert_ne!(forward, (0..40).map(|step| plan(&log, 2).at(step, &log)).collect::<Vec<_>>());
        assert!(forward.iter().filter(|(_, position)| *position == 0).count() >= 4, "passes begin");
    }
}
