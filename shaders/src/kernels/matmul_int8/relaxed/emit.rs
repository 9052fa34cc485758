//! The WebAssembly module of the relaxed product, put together byte by byte.
//!
//! Written by hand because a browser without relaxed vectors refuses every module that holds one such instruction, and
//! because LLVM moves the places of loads into locals, which costs an instruction a product. The module has no memory
//! of its own, no data and no stack: it reads and writes the memory of the page's module, at the places of a
//! [`super::Call`]. Dimension key: `R` rows of a tile, `P` registers of a panel that go together.

use super::TILE;
use crate::kernels::matmul_int8::tile::{HALF_MASK, HALF_REBIAS};
use crate::panel::OUTPUTS;

/// Where the module takes its memory from, and what it calls its function.
pub(super) const IMPORT: [&str; 2] = ["page", "memory"];
/// See [`IMPORT`].
pub(super) const EXPORT: &str = "matmul";

/// Bytes of a panel's line, and of a register.
const LINE: u32 = OUTPUTS as u32 * 4;
const REGISTER: u32 = 16;

const I32: u8 = 0x7f;
const V128: u8 = 0x7b;

const BLOCK_VOID: [u8; 2] = [0x02, 0x40];
const LOOP_VOID: [u8; 2] = [0x03, 0x40];
const END: u8 = 0x0b;
const BRANCH: u8 = 0x0c;
const CALL: u8 = 0x10;
const I32_LOAD: u8 = 0x28;
const SELECT: u8 = 0x1b;
const I32_EQZ: u8 = 0x45;
const I32_NE: u8 = 0x47;
const I32_LT_U: u8 = 0x49;
const I32_ADD: u8 = 0x6a;
const I32_SUB: u8 = 0x6b;
const I32_MUL: u8 = 0x6c;

/// Vector instructions by their numbers behind the prefix 0xfd.
const LOAD: u32 = 0x00;
const LOAD_SPLAT: u32 = 0x09;
const STORE: u32 = 0x0b;
const CONST: u32 = 0x0c;
const AND: u32 = 0x4e;
const EXTADD_I16: u32 = 0x7e;
const SHL_I16: u32 = 0x8b;
const SHR_U16: u32 = 0x8d;
const ADD_I16: u32 = 0x8e;
const SHL_I32: u32 = 0xab;
const SHR_I32: u32 = 0xac;
const ADD_I32: u32 = 0xae;
const DOT_I16: u32 = 0xba;
const ADD_F32: u32 = 0xe4;
const MUL_F32: u32 = 0xe6;
const CONVERT_I32: u32 = 0xfa;
/// `i16x8.relaxed_dot_i8x16_i7x16_s`.
const RELAXED_DOT: u32 = 0x112;

/// Unsigned LEB128.
#[inline(never)]
fn leb(mut value: u32, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// Something behind its length.
#[inline(never)]
fn sized(bytes: &[u8], to: &mut Vec<u8>) {
    leb(bytes.len() as u32, to);
    to.extend(bytes);
}

/// A function's code; its parts are not inlined, so that the page stays small: parameters of type i32 first, then the locals in the order in which they are made.
struct Code {
    locals: Vec<u8>,
    n_params: u32,
    bytes: Vec<u8>,
}

impl Code {
    fn new(n_params: u32) -> Self {
        Self { locals: Vec::new(), n_params, bytes: Vec::new() }
    }

    #[inline(never)]
    fn local(&mut self, of: u8) -> u32 {
        self.locals.push(of);
        self.n_params + self.locals.len() as u32 - 1
    }

    #[inline(never)]
    fn op(&mut self, op: u8) {
        self.bytes.push(op);
    }

    #[inline(never)]
    fn get(&mut self, local: u32) {
        self.op(0x20);
        leb(local, &mut self.bytes);
    }

    #[inline(never)]
    fn set(&mut self, local: u32) {
        self.op(0x21);
        leb(local, &mut self.bytes);
    }

    #[inline(never)]
    fn i32(&mut self, value: i32) {
        self.op(0x41);
        // signed LEB128
        let mut value = value;
        while !(-64..64).contains(&value) {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8 & 0x7f);
    }

    #[inline(never)]
    fn branch_if(&mut self, depth: u32) {
        self.op(0x0d);
        leb(depth, &mut self.bytes);
    }

    #[inline(never)]
    fn simd(&mut self, op: u32) {
        self.op(0xfd);
        leb(op, &mut self.bytes);
    }

    /// The four words of a constant.
    #[inline(never)]
    fn splat(&mut self, word: u32) {
        self.simd(CONST);
        (0..4).for_each(|_| self.bytes.extend(word.to_le_bytes()));
    }

    /// A load or store; alignment is a hint of a word.
    #[inline(never)]
    fn memory(&mut self, op: u32, offset: u32) {
        self.simd(op);
        self.bytes.push(2);
        leb(offset, &mut self.bytes);
    }

    #[inline(never)]
    fn load_i32(&mut self, at: u32, offset: u32, to: u32) {
        self.get(at);
        self.op(I32_LOAD);
        self.bytes.push(2);
        leb(offset, &mut self.bytes);
        self.set(to);
    }

    /// `local += by`.
    #[inline(never)]
    fn advance(&mut self, local: u32, by: u32) {
        self.get(local);
        self.i32(by as i32);
        self.op(I32_ADD);
        self.set(local);
    }

    /// `local += a · by`.
    #[inline(never)]
    fn advance_by(&mut self, local: u32, a: u32, by: u32) {
        self.get(local);
        self.get(a);
        self.i32(by as i32);
        self.op(I32_MUL);
        self.op(I32_ADD);
        self.set(local);
    }

    fn copy(&mut self, from: u32, to: u32) {
        self.get(from);
        self.set(to);
    }

    /// `local -= 1`, and again from the loop's start while it is not zero.
    #[inline(never)]
    fn repeat(&mut self, local: u32) {
        self.get(local);
        self.i32(1);
        self.op(I32_SUB);
        self.op(0x22); // tee
        leb(local, &mut self.bytes);
        self.branch_if(0);
        self.op(END);
    }

    fn finish(mut self) -> Vec<u8> {
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

/// One kind of tile: R rows with one panel, P registers of it at a time.
#[derive(Clone, Copy)]
struct Tile {
    q4: bool,
    r: u32,
    p: u32,
}

/// Locals of a tile's function. Its parameters: quants, scales and the tile's words, scales and scaled sums, where the
/// products go, and the number of blocks.
struct Locals {
    quants: u32,
    halves: u32,
    words_at: u32,
    scales: u32,
    sums_at: u32,
    /// Q8: how far a block's scale must be shifted up within its word, 16 or 0.
    shift: u32,
    mask: u32,
    row: u32,
    scale: u32,
    min: u32,
    words: Vec<u32>,
    codes: Vec<u32>,
    sums: Vec<u32>,
    totals: Vec<u32>,
}

impl Tile {
    /// Lines of a block's codes.
    fn lines(self) -> u32 {
        if self.q4 { 4 } else { 8 }
    }

    /// Words of a row's block: bytes for Q4, 16-bit halves for Q8.
    fn words(self) -> u32 {
        if self.q4 { 8 } else { 16 }
    }

    fn function(self) -> Vec<u8> {
        const FROM: [u32; 5] = [0, 1, 2, 3, 4];
        const OUT: u32 = 5;
        const N_BLOCKS: u32 = 6;
        let Self { q4, r, p } = self;
        let mut c = Code::new(7);
        let n_groups = c.local(I32);
        let n_blocks = c.local(I32);
        let [quants, halves, words_at, scales, sums_at, shift] = [(); 6].map(|()| c.local(I32));
        let [mask, row, scale, min] = [(); 4].map(|()| c.local(V128));
        let mut some = |n| (0..n).map(|_| c.local(V128)).collect::<Vec<_>>();
        let (words, codes, sums, totals) = (some(p), some(p), some(r * p), some(r * p));
        let l = Locals {
            quants,
            halves,
            words_at,
            scales,
            sums_at,
            shift,
            mask,
            row,
            scale,
            min,
            words,
            codes,
            sums,
            totals,
        };
        c.splat(if q4 { 0x0f0f_0f0f } else { 0xff00_ff00 });
        c.set(mask);
        c.i32((LINE / (REGISTER * p)) as i32);
        c.set(n_groups);
        c.bytes.extend(LOOP_VOID);
        for total in &l.totals {
            c.splat(0);
            c.set(*total);
        }
        for (from, to) in FROM.into_iter().zip([quants, halves, words_at, scales, sums_at]) {
            c.copy(from, to);
        }
        c.i32(16);
        c.set(shift);
        c.copy(N_BLOCKS, n_blocks);
        c.bytes.extend(LOOP_VOID);
        self.add_products(&mut c, &l);
        for i in 0..p {
            self.scale(&mut c, &l, i);
        }
        let rows = [(words_at, self.words() * r * 4), (scales, r * 4), (sums_at, r * 4)];
        rows.into_iter().for_each(|(local, by)| c.advance(local, by));
        c.advance(quants, self.lines() * LINE);
        if q4 {
            c.advance(halves, LINE);
        } else {
            // the next line of scales after the second block of its pair
            self.next_half(&mut c, &l);
        }
        c.repeat(n_blocks);
        for (i, total) in (0..).zip(&l.totals) {
            c.get(OUT);
            c.get(*total);
            c.memory(STORE, i / p * LINE + i % p * REGISTER);
        }
        [FROM[0], FROM[1], OUT].into_iter().for_each(|local| c.advance(local, p * REGISTER));
        c.repeat(n_groups);
        c.finish()
    }

    /// `halves += LINE · (shift == 0)`, `shift = 16 - shift`.
    fn next_half(self, c: &mut Code, l: &Locals) {
        c.get(l.halves);
        c.get(l.shift);
        c.op(I32_EQZ);
        c.i32(LINE as i32);
        c.op(I32_MUL);
        c.op(I32_ADD);
        c.set(l.halves);
        c.i32(16);
        c.get(l.shift);
        c.op(I32_SUB);
        c.set(l.shift);
    }

    /// The integer sums of a block. Q8's are 256 times too large: a code stands in the upper byte of its half.
    fn add_products(self, c: &mut Code, l: &Locals) {
        let Self { q4, r, p } = self;
        for word in 0..self.words() {
            let (line, second) = (word / 2, word % 2 == 1);
            for (i, (words, codes)) in (0..).zip(l.words.iter().zip(&l.codes)) {
                if !second {
                    c.get(l.quants);
                    c.memory(LOAD, line * LINE + i * REGISTER);
                    c.set(*words);
                }
                c.get(*words);
                if q4 == second {
                    c.i32(if q4 { 4 } else { 8 });
                    c.simd(if q4 { SHR_U16 } else { SHL_I16 });
                }
                if q4 || second {
                    c.get(l.mask);
                    c.simd(AND);
                }
                c.set(*codes);
            }
            for row in 0..r {
                c.get(l.words_at);
                c.memory(LOAD_SPLAT, (word * r + row) * 4);
                c.set(l.row);
                for (sum, codes) in l.sums[(row * p) as usize..].iter().zip(&l.codes) {
                    if word > 0 {
                        c.get(*sum);
                    }
                    c.get(l.row);
                    c.get(*codes);
                    c.simd(if q4 { RELAXED_DOT } else { DOT_I16 });
                    if word > 0 {
                        c.simd(if q4 { ADD_I16 } else { ADD_I32 });
                    }
                    c.set(*sum);
                }
            }
        }
    }

    /// Onto the totals: `sum · scale · scale of the row`, for Q4 plus `min · scaled sum of the row`.
    fn scale(self, c: &mut Code, l: &Locals, i: u32) {
        let Self { q4, r, p } = self;
        self.half(c, l, i, false);
        if q4 {
            self.half(c, l, i, true);
        }
        for row in 0..r {
            let at = (row * p + i) as usize;
            c.get(l.totals[at]);
            c.get(l.sums[at]);
            if q4 {
                c.simd(EXTADD_I16);
            }
            c.simd(CONVERT_I32);
            c.get(l.scale);
            c.simd(MUL_F32);
            c.get(l.scales);
            c.memory(LOAD_SPLAT, row * 4);
            c.simd(MUL_F32);
            if q4 {
                c.get(l.min);
                c.get(l.sums_at);
                c.memory(LOAD_SPLAT, row * 4);
                c.simd(MUL_F32);
                c.simd(ADD_F32);
            }
            c.simd(ADD_F32);
            c.set(l.totals[at]);
        }
    }

    /// The values of the halves that are a block's scale, or minimum, as in `simd128`; Q8's a 256th of it, exactly.
    fn half(self, c: &mut Code, l: &Locals, i: u32, is_min: bool) {
        c.get(l.halves);
        c.memory(LOAD, i * REGISTER);
        match (self.q4, is_min) {
            (true, true) => {}
            (true, false) => c.i32(16),
            (false, _) => c.get(l.shift),
        }
        if !is_min {
            c.simd(SHL_I32);
        }
        c.i32(3);
        c.simd(SHR_I32);
        c.splat(HALF_MASK as u32);
        c.simd(AND);
        c.splat(if self.q4 { HALF_REBIAS } else { HALF_REBIAS / 256.0 }.to_bits());
        c.simd(MUL_F32);
        c.set(if is_min { l.min } else { l.scale });
    }
}

/// Panels and tiles around [`Tile`]; the parameter is the place of a [`super::Call`].
fn matmul() -> Vec<u8> {
    const AT: u32 = 0;
    let mut c = Code::new(1);
    let fields = [(); 13].map(|()| c.local(I32));
    fields.iter().enumerate().for_each(|(i, field)| c.load_i32(AT, i as u32 * 4, *field));
    let [quants, halves, n_panels, n_blocks, n_rows, words, scales, sums, out, of_panel, of_halves, of_row, kind] =
        fields;
    let [left, of_tile, words_at, scales_at, sums_at] = [(); 5].map(|()| c.local(I32));
    c.bytes.extend(LOOP_VOID); // panels
    for (from, to) in [(n_rows, left), (words, words_at), (scales, scales_at), (sums, sums_at)] {
        c.copy(from, to);
    }
    c.bytes.extend(BLOCK_VOID);
    c.bytes.extend(LOOP_VOID); // tiles
    c.get(left);
    c.op(I32_EQZ);
    c.branch_if(1);
    // of_tile = min(left, TILE)
    c.get(left);
    c.i32(TILE as i32);
    c.get(left);
    c.i32(TILE as i32);
    c.op(I32_LT_U);
    c.op(SELECT);
    c.set(of_tile);
    for tile in 0..2 * TILE as u32 {
        c.bytes.extend(BLOCK_VOID);
        c.get(of_tile);
        c.get(kind);
        c.op(I32_ADD);
        c.i32(tile as i32 + 1);
        c.op(I32_NE);
        c.branch_if(0);
        [quants, halves, words_at, scales_at, sums_at, out, n_blocks].into_iter().for_each(|local| c.get(local));
        c.op(CALL);
        leb(tile, &mut c.bytes);
        c.op(END);
    }
    c.get(left);
    c.get(of_tile);
    c.op(I32_SUB);
    c.set(left);
    let by = |c: &mut Code, local: u32, a: u32, b: u32| {
        c.get(local);
        c.get(a);
        c.get(b);
        c.op(I32_MUL);
        c.op(I32_ADD);
        c.set(local);
    };
    by(&mut c, words_at, of_tile, of_row);
    c.advance_by(out, of_tile, LINE);
    // of_tile · blocks from here on
    c.get(of_tile);
    c.get(n_blocks);
    c.op(I32_MUL);
    c.set(of_tile);
    [scales_at, sums_at].into_iter().for_each(|local| c.advance_by(local, of_tile, 4));
    c.op(BRANCH);
    leb(0, &mut c.bytes);
    c.op(END);
    c.op(END);
    c.advance_by(quants, of_panel, 1);
    c.advance_by(halves, of_halves, 1);
    c.repeat(n_panels);
    c.finish()
}

/// The whole module.
pub fn module() -> Vec<u8> {
    let of = |q4| move |r| Tile { q4, r, p: if r == 1 { 4 } else { 2 } }.function();
    let rows = 1..=TILE as u32;
    let functions: Vec<Vec<u8>> = rows.clone().map(of(true)).chain(rows.map(of(false))).chain([matmul()]).collect();
    let section = |id: u8, body: &[u8], to: &mut Vec<u8>| {
        to.push(id);
        sized(body, to);
    };
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    let of_tile = [&[0x60, 7][..], &[I32; 7], &[0]].concat();
    section(1, &[&[2][..], &of_tile, &[0x60, 1, I32, 0]].concat(), &mut module);
    let mut import = vec![1];
    IMPORT.iter().for_each(|name| sized(name.as_bytes(), &mut import));
    import.extend([2, 0, 0]); // a memory of any size
    section(2, &import, &mut module);
    let mut types = vec![functions.len() as u8];
    types.extend([0].repeat(2 * TILE));
    types.push(1);
    section(3, &types, &mut module);
    let mut export = vec![1];
    sized(EXPORT.as_bytes(), &mut export);
    export.extend([0, 2 * TILE as u8]);
    section(7, &export, &mut module);
    let mut code = vec![functions.len() as u8];
    functions.iter().for_each(|function| sized(function, &mut code));
    section(10, &code, &mut module);
    module
}
