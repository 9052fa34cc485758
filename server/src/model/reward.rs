//! The reward model: the trunk of [`super::llama`] with a mean and a variance head. Written by the GaRM work.
