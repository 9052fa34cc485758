//! What a run is given from outside, beside the log: a parent that it starts from, and a teacher that SFT learns from.
//!
//! Both lie in the run's folder, so a run needs nothing else when it goes on after an interruption; the configuration holds
//! their ids, which fix the content.

use super::PipelineError;
use super::parent::{self, Parent};
use super::teacher::{self, Soft, Teacher, Writing};
use crate::model::batch::derived_seed;
use crate::stage::Observer;
use beckon_shared::click::Sourced;
use beckon_shared::config::ModelConfig;
use beckon_shared::control::RunConfig;
use beckon_shared::distill::TeacherSample;
use beckon_shared::preference::dataset_from_records;
use beckon_shared::tokenizer::Tokenizer;
use std::path::Path;

/// Name in `data/` of what a teacher wrote.
const WRITTEN: &str = "teacher_samples.jsonl";
/// Purpose of the seed of its draws, see [`derived_seed`].
const PURPOSE: u64 = 5;

/// See the module.
pub struct Given {
    /// In place of random weights.
    pub parent: Option<Parent>,
    /// Writes suggestions to imitate.
    pub teacher: Option<Teacher>,
    /// The teacher's network, where its distribution is learnt from.
    pub soft: Option<Soft>,
}

impl Given {
    /// What `config` names, from the run's folder.
    ///
    /// # Errors
    /// A file that is missing, damaged or another one; [`PipelineError::SoftTargets`] where the teacher's distribution
    /// cannot be learnt from.
    pub fn load(dir: &Path, config: &RunConfig) -> Result<Self, PipelineError> {
        let parent = parent::load(dir, config)?;
        let teacher = teacher::load(dir, config)?;
        let soft = config.sft.teacher.as_ref().zip(teacher.as_ref());
        let soft = soft.map(|(config, teacher)| teacher.soft(config)).transpose()?.flatten();
        let given = Self { parent, teacher, soft };
        if let Some((soft, tokenizer)) = given.soft.as_ref().zip(given.tokenizer()) {
            soft.check(tokenizer, &given.model(config, tokenizer))?;
        }
        Ok(given)
    }

    /// What the teacher wrote for the conversations of a log, or writes now; nothing without a teacher. Kept in `dir`.
    ///
    /// # Errors
    /// As [`teacher::samples`]; a log that cannot be read.
    pub fn samples(
        &self,
        dir: &Path,
        config: &RunConfig,
        records: &[Sourced],
        observer: &mut dyn Observer,
    ) -> Result<Vec<TeacherSample>, PipelineError> {
        let Some((settings, teacher)) = config.sft.teacher.as_ref().zip(self.teacher.as_ref()) else {
            return Ok(Vec::new());
        };
        let path = dir.join(WRITTEN);
        let writing = Writing {
            config: settings,
            contexts: config.preferences.click_model.context,
            seed: derived_seed(config.seed, PURPOSE),
            path: &path,
        };
        let prompts = || -> Result<_, PipelineError> {
            Ok(dataset_from_records(records, &config.preferences, config.seed)?.train.prompts)
        };
        teacher::samples(teacher, &writing, prompts, observer)
    }

    /// The tokenizer that the run takes over: the parent's, or, where its distribution is learnt from, the teacher's.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        let of_parent = self.parent.as_ref().map(|parent| &parent.tokenizer);
        of_parent.or(self.soft.as_ref().map(|soft| &soft.tokenizer))
    }

    /// Shape of the run's networks with `tokenizer`.
    pub fn model(&self, config: &RunConfig, tokenizer: &Tokenizer) -> ModelConfig {
        let own = |vocab_size| ModelConfig { vocab_size, ..config.preset.model() };
        match (&self.parent, &self.soft) {
            (Some(parent), _) => parent.model.clone(),
            // its embedding may have more rows than its tokenizer tokens
            (None, Some(soft)) => own(soft.model.vocab_size),
            (None, None) => own(tokenizer.vocab_size()),
        }
    }
}
