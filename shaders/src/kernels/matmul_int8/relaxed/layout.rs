//! What the relaxed module and its caller agree on; the build script reads this file too.

/// Rows that the module unpacks a weight for at once.
pub const TILE: usize = 4;
/// As [`crate::panel::OUTPUTS`].
pub const OUTPUTS: usize = 16;
/// As in `tile.rs`: the bits of a half, moved to where a float has them, and what brings its exponent right.
pub const HALF_MASK: i32 = 0x8fff_e000_u32 as i32;
/// See [`HALF_MASK`].
pub const HALF_REBIAS: f32 = f32::from_bits((127 + 112) << 23);

/// What is multiplied, and by which instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Products {
    /// Nibbles by `i16x8.relaxed_dot_i8x16_i7x16_s`.
    Q4InPairs,
    /// Bytes as halves by `i32x4.dot_i16x8_s`.
    Q8InHalves,
    /// Nibbles by `i32x4.relaxed_dot_i8x16_i7x16_add_s`.
    Q4InFours,
    /// Bytes by the same, out of its range: with their sign or without, as it takes them.
    Q8InFours,
}

/// Words that a team agrees by, as places in bytes: pieces that nobody has taken;
pub const LEFT: u32 = 0;
/// those that are made;
pub const DONE: u32 = 4;
/// a number that grows with every product, which sleepers wait on;
pub const EPOCH: u32 = 8;
/// how many they are;
pub const N_SLEEPERS: u32 = 12;
/// and the work: how many pieces,
pub const N_PIECES: u32 = 16;
/// panels of each but the last,
pub const OF_PIECE: u32 = 20;
/// of all,
pub const N_PANELS: u32 = 24;
/// and the place of the call.
pub const CALL: u32 = 28;
/// Number of the words.
pub const N_WORDS: usize = 8;
