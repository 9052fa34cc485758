//! A teacher's suggestions as a file: one JSON object a line,
//! `{"prompt": [{"role": "user", "text": "fitbit sync"}], "text": "how to reset my fitbit", "score": 1.5}`.

use super::TeacherSample;

/// A line that is no sample.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "line {line} of the teacher's samples: {reason}; expected {{\"prompt\": [{{\"role\": \"user\", \"text\": …}}], \
     \"text\": …, \"score\": …}}"
)]
pub struct SampleError {
    /// 1-based.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// Reads a file of samples; empty lines are skipped.
///
/// # Errors
/// The first line that is no sample, has no text or no turns.
pub fn samples_from_jsonl(bytes: &[u8]) -> Result<Vec<TeacherSample>, SampleError> {
    let mut samples = Vec::new();
    for (i, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let refused = |reason: String| SampleError { line: i + 1, reason };
        let sample: TeacherSample = serde_json::from_slice(line).map_err(|error| refused(error.to_string()))?;
        if sample.text.trim().is_empty() {
            return Err(refused("text is empty".into()));
        }
        if sample.prompt.turns.is_empty() {
            return Err(refused("prompt has no turns".into()));
        }
        samples.push(sample);
    }
    Ok(samples)
}

/// The file that [`samples_from_jsonl`] reads.
///
/// # Errors
/// A score that is not finite.
pub fn samples_to_jsonl(samples: &[TeacherSample]) -> Result<Vec<u8>, SampleError> {
    let mut bytes = Vec::new();
    for (i, sample) in samples.iter().enumerate() {
        let refused = |reason: String| SampleError { line: i + 1, reason };
        if !sample.score.is_finite() {
            return Err(refused(format!("score is {}", sample.score)));
        }
        serde_json::to_writer(&mut bytes, sample).map_err(|error| refused(error.to_string()))?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Prompt;

    #[test]
    fn samples_go_through_a_file() {
        let sample = |text: &str, score| TeacherSample { prompt: Prompt::from_query("rice"), text: text.into(), score };
        let samples = [sample("brown rice", -0.25), sample("how long does rice\nkeep", 3.0)];
        let bytes = samples_to_jsonl(&samples).expect("finite");
        assert_eq!(samples_from_jsonl(&bytes).expect("read"), samples);
        let by_hand = "\n{\"prompt\":[{\"role\":\"user\",\"text\":\"rice\"}],\"text\":\"brown rice\"}\r\n";
        assert_eq!(samples_from_jsonl(by_hand.as_bytes()).expect("no score is 0")[0], sample("brown rice", 0.0));
        assert!(samples_to_jsonl(&[sample("a", f64::NAN)]).is_err());
    }

    #[test]
    fn a_line_that_is_no_sample_is_named() {
        let good = "{\"prompt\":[{\"role\":\"user\",\"text\":\"rice\"}],\"text\":\"brown rice\",\"score\":1}\n";
        for (bad, needle) in [
            ("{\"text\": \"a\"}", "prompt"),
            ("{\"prompt\":[],\"text\":\"a\"}", "no turns"),
            ("{\"prompt\":[{\"role\":\"user\",\"text\":\"rice\"}],\"text\":\" \"}", "text is empty"),
            ("{\"prompt\":[{\"role\":\"user\",\"text\":\"rice\"}],\"text\":\"a\",\"scor\":1}", "scor"),
            ("no json", "expected"),
        ] {
            let error = samples_from_jsonl(format!("{good}{bad}").as_bytes()).expect_err(bad).to_string();
            assert!(error.starts_with("line 2 ") && error.contains(needle), "{error}");
        }
    }
}
