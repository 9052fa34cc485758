//! The WebAssembly module of the relaxed product, put together byte by byte.
//!
//! Written by hand because a browser without relaxed vectors refuses every module that holds one such instruction, and
//! because LLVM moves the places of loads into locals, which costs an instruction a product. The module has no memory
//! of its own, no data and no stack: it reads and writes the memory of the page's module, at the places of a
//! `Call` (`relaxed.rs`). So any number of threads may run it over one memory: [`super::team`]. Dimension key: `R` rows of a tile,
//! `P` registers of a panel that go together.

use super::code::*;
use super::layout::{HALF_MASK, HALF_REBIAS, OUTPUTS, Products, TILE};
use super::team;

/// Where the module takes its memory from.
const IMPORT: [&str; 2] = ["page", "memory"];
/// The functions, as `relaxed::module` says.
const EXPORTS: [&str; 4] = ["matmul", "has_dot", "share", "help"];

/// Bytes of a panel's line, and of a register.
const LINE: u32 = OUTPUTS as u32 * 4;
const REGISTER: u32 = 16;

/// 1.5 · 2^23: what is added to its bits as a whole number is added to its value, and taking it away makes a float of a sum with an
/// instruction that more of a core's units have than a conversion.
const SHIFTED_ZERO: f32 = 12_582_912.0;

impl Products {
    /// In the order of their numbers.
    const ALL: [Self; 4] = [Self::Q4InPairs, Self::Q8InHalves, Self::Q4InFours, Self::Q8InFours];

    fn q4(self) -> bool {
        matches!(self, Self::Q4InPairs | Self::Q4InFours)
    }
}

/// One kind of tile: R rows with one panel, P registers of it at a time.
#[derive(Clone, Copy)]
struct Tile {
    products: Products,
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
    /// Q8 in fours: all ones where codes are taken with their sign.
    signed: u32,
    half_mask: u32,
    rebias: u32,
    /// Q4 in fours: [`SHIFTED_ZERO`], which sums begin at.
    shifted: u32,
    row: u32,
    scale: u32,
    min: u32,
    words: Vec<u32>,
    codes: Vec<u32>,
    sums: Vec<u32>,
    totals: Vec<u32>,
}

impl Tile {
    fn new(products: Products, r: u32) -> Self {
        Self { products, r, p: if r == 1 { 4 } else { 2 } }
    }

    /// Lines of a block's codes.
    fn lines(self) -> u32 {
        if self.products.q4() { 4 } else { 8 }
    }

    /// Words of a row's block: bytes, or 16-bit halves.
    fn words(self) -> u32 {
        if self.products == Products::Q8InHalves { 16 } else { 8 }
    }

    /// What is left of a word of codes; of Q8 in fours, what is turned round where codes are taken without a sign.
    fn mask(self) -> u32 {
        match self.products {
            Products::Q4InPairs | Products::Q4InFours => 0x0f0f_0f0f,
            Products::Q8InHalves => 0xff00_ff00,
            Products::Q8InFours => 0x8080_8080,
        }
    }

    fn function(self) -> Vec<u8> {
        const FROM: [u32; 5] = [0, 1, 2, 3, 4];
        const OUT: u32 = 5;
        const N_BLOCKS: u32 = 6;
        let Self { products, r, p } = self;
        let q4 = products.q4();
        let mut c = Code::new(7);
        let [n_groups, n_blocks, quants, halves, words_at, scales, sums_at, shift] = [(); 8].map(|()| c.local(I32));
        let [mask, signed, half_mask, rebias, shifted, row, scale, min] = [(); 8].map(|()| c.local(V128));
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
            signed,
            half_mask,
            rebias,
            shifted,
            row,
            scale,
            min,
            words,
            codes,
            sums,
            totals,
        };
        self.set_constants(&mut c, &l);
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
        let rows = [(words_at, self.words() * r * REGISTER), (scales, r * REGISTER), (sums_at, r * REGISTER)];
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

    /// In locals, as V8 would make a constant anew wherever it stands.
    fn set_constants(self, c: &mut Code, l: &Locals) {
        c.splat(self.mask());
        if self.products == Products::Q8InFours {
            // 1 times 128, or times -128, four times
            [0x0101_0101, 0x8080_8080, 0].into_iter().for_each(|word| c.splat(word));
            c.simd(RELAXED_DOT_ADD);
            c.shift(31, SHR_I32);
            c.set(l.signed);
            c.get(l.signed);
            c.simd(AND_NOT);
        }
        c.set(l.mask);
        let rebias = if self.products == Products::Q8InHalves { HALF_REBIAS / 256.0 } else { HALF_REBIAS };
        c.splat(HALF_MASK as u32);
        c.set(l.half_mask);
        c.splat(rebias.to_bits());
        c.set(l.rebias);
        c.splat(SHIFTED_ZERO.to_bits());
        c.set(l.shifted);
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

    /// The integer sums of a block. Those in halves are 256 times too large: a code stands in the upper byte of its half.
    fn add_products(self, c: &mut Code, l: &Locals) {
        let Self { products, r, p } = self;
        let of_line = self.words() / self.lines();
        for word in 0..self.words() {
            let (line, second) = (word / of_line, word % of_line == 1);
            for (i, (words, codes)) in (0..).zip(l.words.iter().zip(&l.codes)) {
                if !second {
                    c.get(l.quants);
                    c.memory(LOAD, line * LINE + i * REGISTER);
                    c.set(*words);
                }
                c.get(*words);
                match (products, second) {
                    (Products::Q8InHalves, false) => c.shift(8, SHL_I16),
                    (Products::Q4InPairs | Products::Q4InFours, true) => c.shift(4, SHR_U16),
                    _ => {}
                }
                if products != Products::Q8InHalves || second {
                    c.get(l.mask);
                    c.simd(if products == Products::Q8InFours { XOR } else { AND });
                }
                c.set(*codes);
            }
            for row in 0..r {
                c.get(l.words_at);
                c.memory(LOAD, (word * r + row) * REGISTER);
                c.set(l.row);
                let at = (row * p) as usize;
                for (sum, codes) in l.sums[at..].iter().zip(&l.codes) {
                    self.add_product(c, l, row, (*codes, *sum), word == 0);
                }
            }
        }
    }

    /// `sum (+)= row · codes`; Q8 in fours begins at the row's sum where codes are taken without a sign, at 0 else.
    fn add_product(self, c: &mut Code, l: &Locals, row: u32, (codes, sum): (u32, u32), is_first: bool) {
        let (product, add) = match self.products {
            Products::Q4InPairs => (RELAXED_DOT, Some(ADD_I16)),
            Products::Q8InHalves => (DOT_I16, Some(ADD_I32)),
            Products::Q4InFours | Products::Q8InFours => (RELAXED_DOT_ADD, None),
        };
        c.get(l.row);
        c.get(codes);
        match (add, self.products) {
            (Some(_), _) => {}
            (None, Products::Q8InFours) if is_first => {
                c.get(l.sums_at);
                c.memory(LOAD, row * REGISTER);
                c.get(l.signed);
                c.simd(AND_NOT);
            }
            (None, _) if is_first => c.get(l.shifted),
            (None, _) => c.get(sum),
        }
        c.simd(product);
        if let Some(add) = add
            && !is_first
        {
            c.get(sum);
            c.simd(add);
        }
        c.set(sum);
    }

    /// Onto the totals: `sum · scale · scale of the row`, for Q4 plus `min · scaled sum of the row`.
    fn scale(self, c: &mut Code, l: &Locals, i: u32) {
        let Self { products, r, p } = self;
        self.half(c, l, i, false);
        if products.q4() {
            self.half(c, l, i, true);
        }
        for row in 0..r {
            let at = (row * p + i) as usize;
            c.get(l.totals[at]);
            c.get(l.sums[at]);
            if products == Products::Q4InPairs {
                c.simd(EXTADD_I16);
            }
            if products == Products::Q4InFours {
                c.get(l.shifted);
                c.simd(SUB_F32);
            } else {
                c.simd(CONVERT_I32);
            }
            c.get(l.scale);
            c.simd(MUL_F32);
            c.get(l.scales);
            c.memory(LOAD, row * REGISTER);
            c.simd(MUL_F32);
            if products.q4() {
                c.get(l.min);
                c.get(l.sums_at);
                c.memory(LOAD, row * REGISTER);
                c.simd(MUL_F32);
                c.simd(ADD_F32);
            }
            c.simd(ADD_F32);
            c.set(l.totals[at]);
        }
    }

    /// The values of the halves that are a block's scale, or minimum, as in `simd128.rs`; in halves a 256th of it, exactly.
    fn half(self, c: &mut Code, l: &Locals, i: u32, is_min: bool) {
        c.get(l.halves);
        c.memory(LOAD, i * REGISTER);
        match (self.products.q4(), is_min) {
            (true, true) => {}
            (true, false) => c.i32(16),
            (false, _) => c.get(l.shift),
        }
        if !is_min {
            c.simd(SHL_I32);
        }
        c.i32(3);
        c.simd(SHR_I32);
        c.get(l.half_mask);
        c.simd(AND);
        c.get(l.rebias);
        c.simd(MUL_F32);
        c.set(if is_min { l.min } else { l.scale });
    }
}

/// Whether [`RELAXED_DOT_ADD`] is one instruction: 127 times a byte of ones four times is 127 · 255 · 4 where it takes the byte
/// without a sign and its sums have 32 bits (AVX-VNNI), and -128 times -128 four times is 65,536 where it takes it with a
/// sign (ARM). Sums of two products that are cut to 16 bits give neither.
fn has_dot() -> Vec<u8> {
    let mut c = Code::new(0);
    for (a, b, dot) in [(0x7f7f_7f7f, 0xffff_ffff, 127 * 255 * 4), (0x8080_8080, 0x8080_8080, 128 * 128 * 4)] {
        [a, b, 0].into_iter().for_each(|word| c.splat(word));
        c.simd(RELAXED_DOT_ADD);
        c.simd(EXTRACT_I32);
        c.op(0); // lane
        c.i32(dot);
        c.op(I32_EQ);
    }
    c.op(I32_OR);
    c.finish()
}

/// Functions of tiles.
const N_TILES: u32 = (Products::ALL.len() * TILE) as u32;

/// Panels and tiles around [`Tile`]; the parameters are the place of a `Call`, the first panel and how many, at least one.
// reason: one function of the module, instruction by instruction
fn matmul() -> Vec<u8> {
    const AT: u32 = 0;
    const FIRST: u32 = 1;
    const N_PANELS: u32 = 2;
    let mut c = Code::new(3);
    let fields = [(); 12].map(|()| c.local(I32));
    fields.iter().enumerate().for_each(|(i, field)| c.load_i32(AT, i as u32 * 4, *field));
    let [quants, halves, n_blocks, n_rows, words, scales, sums, out, of_panel, of_halves, of_row, kind] = fields;
    let [left, of_tile, words_at, scales_at, sums_at] = [(); 5].map(|()| c.local(I32));
    let by = |c: &mut Code, local: u32, a: u32, b: u32| {
        c.get(local);
        c.get(a);
        c.get(b);
        c.op(I32_MUL);
        c.op(I32_ADD);
        c.set(local);
    };
    by(&mut c, quants, FIRST, of_panel);
    by(&mut c, halves, FIRST, of_halves);
    // rows of outputs before the first panel's
    c.get(FIRST);
    c.get(n_rows);
    c.op(I32_MUL);
    c.set(left);
    c.advance_by(out, left, LINE);
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
    for tile in 0..N_TILES {
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
    by(&mut c, words_at, of_tile, of_row);
    c.advance_by(out, of_tile, LINE);
    // of_tile · blocks from here on
    c.get(of_tile);
    c.get(n_blocks);
    c.op(I32_MUL);
    c.set(of_tile);
    [scales_at, sums_at].into_iter().for_each(|local| c.advance_by(local, of_tile, REGISTER));
    c.op(BRANCH);
    leb(0, &mut c.bytes);
    c.op(END);
    c.op(END);
    c.advance_by(quants, of_panel, 1);
    c.advance_by(halves, of_halves, 1);
    c.repeat(N_PANELS);
    c.finish()
}

/// The whole module, for a memory that is not shared; where it is, one flag of its limits differs.
pub fn module() -> Vec<u8> {
    let tiles = Products::ALL.into_iter().flat_map(|products| (1..=TILE as u32).map(move |r| Tile::new(products, r)));
    let functions: Vec<Vec<u8>> = tiles
        .map(Tile::function)
        .chain([matmul(), has_dot(), team::share(N_TILES + 4), team::help(N_TILES + 4), team::take(N_TILES)])
        .collect();
    let section = |id: u8, body: &[u8], to: &mut Vec<u8>| {
        to.push(id);
        sized(body, to);
    };
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    let of_tile = [&[0x60, 7][..], &[I32; 7], &[0]].concat();
    let others: [&[u8]; 3] = [&[0x60, 3, I32, I32, I32, 0], &[0x60, 0, 1, I32], &[0x60, 1, I32, 0]];
    section(1, &[&[4][..], &of_tile, &others.concat()].concat(), &mut module);
    let mut import = vec![1];
    IMPORT.iter().for_each(|name| sized(name.as_bytes(), &mut import));
    import.extend([2, 1, 0, 0x80, 0x80, 4]); // a memory of any size that has an end, as a shared one must
    section(2, &import, &mut module);
    let mut types = vec![functions.len() as u8];
    types.extend([0].repeat(N_TILES as usize));
    types.extend([1, 2, 3, 3, 3]);
    section(3, &types, &mut module);
    let mut exports = vec![EXPORTS.len() as u8];
    for (name, function) in EXPORTS.into_iter().zip(N_TILES..) {
        sized(name.as_bytes(), &mut exports);
        exports.extend([0, function as u8]);
    }
    section(7, &exports, &mut module);
    let mut code = vec![functions.len() as u8];
    functions.iter().for_each(|function| sized(function, &mut code));
    section(10, &code, &mut module);
    module
}
