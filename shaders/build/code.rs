//! WebAssembly's instructions as bytes, as few as [`super::emit`] needs.

pub const I32: u8 = 0x7f;
pub const V128: u8 = 0x7b;

pub const BLOCK_VOID: [u8; 2] = [0x02, 0x40];
pub const LOOP_VOID: [u8; 2] = [0x03, 0x40];
pub const END: u8 = 0x0b;
pub const BRANCH: u8 = 0x0c;
pub const CALL: u8 = 0x10;
pub const I32_LOAD: u8 = 0x28;
pub const IF_VOID: [u8; 2] = [0x04, 0x40];
pub const DROP: u8 = 0x1a;
pub const SELECT: u8 = 0x1b;
pub const I32_EQZ: u8 = 0x45;
pub const I32_EQ: u8 = 0x46;
pub const I32_NE: u8 = 0x47;
pub const I32_LT_U: u8 = 0x49;
pub const I32_GT_S: u8 = 0x4a;
pub const I32_ADD: u8 = 0x6a;
pub const I32_SUB: u8 = 0x6b;
pub const I32_MUL: u8 = 0x6c;
pub const I32_OR: u8 = 0x72;

/// Atomic instructions by their numbers behind the prefix 0xfe (threads proposal).
pub const NOTIFY: u8 = 0x00;
pub const WAIT_I32: u8 = 0x01;
pub const ATOMIC_LOAD: u8 = 0x10;
pub const ATOMIC_STORE: u8 = 0x17;
pub const ATOMIC_ADD: u8 = 0x1e;

/// Vector instructions by their numbers behind the prefix 0xfd.
pub const LOAD: u32 = 0x00;
pub const STORE: u32 = 0x0b;
pub const CONST: u32 = 0x0c;
pub const EXTRACT_I32: u32 = 0x1b;
pub const AND: u32 = 0x4e;
/// The first without the bits of the second.
pub const AND_NOT: u32 = 0x4f;
pub const XOR: u32 = 0x51;
pub const EXTADD_I16: u32 = 0x7e;
pub const SHL_I16: u32 = 0x8b;
pub const SHR_U16: u32 = 0x8d;
pub const ADD_I16: u32 = 0x8e;
pub const SHL_I32: u32 = 0xab;
pub const SHR_I32: u32 = 0xac;
pub const ADD_I32: u32 = 0xae;
pub const DOT_I16: u32 = 0xba;
pub const ADD_F32: u32 = 0xe4;
pub const SUB_F32: u32 = 0xe5;
pub const MUL_F32: u32 = 0xe6;
pub const CONVERT_I32: u32 = 0xfa;
/// `i16x8.relaxed_dot_i8x16_i7x16_s`.
pub const RELAXED_DOT: u32 = 0x112;
/// `i32x4.relaxed_dot_i8x16_i7x16_add_s`.
pub const RELAXED_DOT_ADD: u32 = 0x113;

/// Unsigned LEB128.
pub fn leb(mut value: u32, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// Something behind its length.
pub fn sized(bytes: &[u8], to: &mut Vec<u8>) {
    leb(bytes.len() as u32, to);
    to.extend(bytes);
}

/// A function's code: parameters of type i32 first, then the locals in the order in which they are made.
pub struct Code {
    locals: Vec<u8>,
    n_params: u32,
    pub bytes: Vec<u8>,
}

impl Code {
    pub fn new(n_params: u32) -> Self {
        Self { locals: Vec::new(), n_params, bytes: Vec::new() }
    }

    pub fn local(&mut self, of: u8) -> u32 {
        self.locals.push(of);
        self.n_params + self.locals.len() as u32 - 1
    }

    pub fn op(&mut self, op: u8) {
        self.bytes.push(op);
    }

    pub fn get(&mut self, local: u32) {
        self.op(0x20);
        leb(local, &mut self.bytes);
    }

    pub fn set(&mut self, local: u32) {
        self.op(0x21);
        leb(local, &mut self.bytes);
    }

    pub fn i32(&mut self, value: i32) {
        self.constant(0x41, value);
    }

    pub fn i64(&mut self, value: i32) {
        self.constant(0x42, value);
    }

    /// A constant of either width, as signed LEB128.
    fn constant(&mut self, op: u8, mut value: i32) {
        self.op(op);
        while !(-64..64).contains(&value) {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8 & 0x7f);
    }

    pub fn branch_if(&mut self, depth: u32) {
        self.op(0x0d);
        leb(depth, &mut self.bytes);
    }

    pub fn simd(&mut self, op: u32) {
        self.op(0xfd);
        leb(op, &mut self.bytes);
    }

    /// An atomic instruction on a word.
    pub fn atomic(&mut self, op: u8, offset: u32) {
        self.op(0xfe);
        self.op(op);
        self.op(2); // alignment
        leb(offset, &mut self.bytes);
    }

    /// The four words of a constant.
    pub fn splat(&mut self, word: u32) {
        self.simd(CONST);
        (0..4).for_each(|_| self.bytes.extend(word.to_le_bytes()));
    }

    /// A load or store; alignment is a hint of a word.
    pub fn memory(&mut self, op: u32, offset: u32) {
        self.simd(op);
        self.bytes.push(2);
        leb(offset, &mut self.bytes);
    }

    pub fn load_i32(&mut self, at: u32, offset: u32, to: u32) {
        self.get(at);
        self.op(I32_LOAD);
        self.bytes.push(2);
        leb(offset, &mut self.bytes);
        self.set(to);
    }

    /// `local += by`.
    pub fn advance(&mut self, local: u32, by: u32) {
        self.get(local);
        self.i32(by as i32);
        self.op(I32_ADD);
        self.set(local);
    }

    /// `local += a · by`.
    pub fn advance_by(&mut self, local: u32, a: u32, by: u32) {
        self.get(local);
        self.get(a);
        self.i32(by as i32);
        self.op(I32_MUL);
        self.op(I32_ADD);
        self.set(local);
    }

    pub fn copy(&mut self, from: u32, to: u32) {
        self.get(from);
        self.set(to);
    }

    pub fn shift(&mut self, by: i32, op: u32) {
        self.i32(by);
        self.simd(op);
    }

    /// `local -= 1`, and again from the loop's start while it is not zero.
    pub fn repeat(&mut self, local: u32) {
        self.get(local);
        self.i32(1);
        self.op(I32_SUB);
        self.op(0x22); // tee
        leb(local, &mut self.bytes);
        self.branch_if(0);
        self.op(END);
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.op(END);
        let mut whole = Vec::new();
        leb(self.locals.len() as u32, &mut whole);
        for of in &self.locals {
            whole.extend([1, *of]);
        }
        whole.extend(self.bytes);
        whole
    }
}
