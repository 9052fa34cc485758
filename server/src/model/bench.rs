//! Speed of one training step, for `beckon bench sft`. Written with the SFT stage.
