//! Upworthy's headline tests as many small A/B tests: the rows of one test with the same picture differ only in
//! the headline, and their impressions were assigned at random (Matias et al., Scientific Data 2021).
//! Impressions are taken as independent; the archive has no users.

use super::{ArmCounts, InputError};
use crate::click::Record;
use crate::import::{self, Format};
use std::collections::HashMap;

/// One test: texts that may be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadlineTest {
    /// Test and picture.
    pub name: String,
    /// Headlines, rows of the same headline summed, in the file's order.
    pub arms: Vec<ArmCounts>,
}

/// All tests with at least two headlines, in the file's order.
///
/// # Errors
/// [`InputError`] of the first row that cannot be read.
pub fn parse(bytes: &[u8]) -> Result<Vec<HeadlineTest>, InputError> {
    let parsed = import::parse(Format::Upworthy, bytes);
    if let Some(reject) = parsed.rejects.first() {
        return Err(InputError { line: reject.line, column: reject.field.clone(), problem: reject.reason.clone() });
    }
    let mut tests: Vec<HeadlineTest> = Vec::new();
    let mut by_name: HashMap<String, usize> = HashMap::new();
    for sourced in parsed.records {
        let Record::Counts(counts) = sourced.record else { continue };
        let at = *by_name.entry(counts.group.clone()).or_insert_with(|| {
            tests.push(HeadlineTest { name: counts.group, arms: Vec::new() });
            tests.len() - 1
        });
        let arms = &mut tests[at].arms;
        match arms.iter_mut().find(|arm| arm.arm == counts.text) {
            Some(arm) => {
                arm.n_units += counts.n_impressions;
                arm.n_clicks += counts.n_clicks;
            }
            None => {
                arms.push(ArmCounts { arm: counts.text, n_units: counts.n_impressions, n_clicks: counts.n_clicks });
            }
        }
    }
    tests.retain(|test| test.arms.len() >= 2);
    Ok(tests)
}
