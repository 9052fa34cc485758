//! How threads share one product: functions of [`super::emit::module`], and the words in memory by which they agree.
//!
//! A thread cannot run the page's code, which was compiled for one alone, but this module has no state: each thread has an
//! instance of it over the page's memory. Who wants a product cuts its panels into pieces, says so in the words and takes
//! pieces itself; the others take what they can get. Nobody is waited for but who has begun a piece, so a thread that sleeps
//! or is late costs nothing, and which thread makes a piece changes no bit of it.
//!
//! [`LEFT`] counts down: who finds n > 0 in it and puts n - 1 there has the piece n - 1. A late one finds 0 or less. The work
//! is written before it, and stays until all pieces are made.

use super::code::*;
use super::layout::{CALL as CALL_AT, DONE, EPOCH, LEFT, N_PANELS, N_PIECES, N_SLEEPERS, OF_PIECE};

/// Looks at a word before a thread sleeps: about a millisecond, longer than what a layer does between two products for eight
/// candidates. To wake a sleeper costs a call of the system, and it comes too late for the product.
const N_LOOKS: i32 = 600_000;
/// Nanoseconds that the one who shares sleeps when others take long, as where they lost their core.
const NAP: i32 = 50_000;

/// The place of the words is every function's parameter.
const AT: u32 = 0;

fn load(c: &mut Code, offset: u32) {
    c.get(AT);
    c.atomic(ATOMIC_LOAD, offset);
}

/// `word += by`.
fn add(c: &mut Code, offset: u32, by: i32) {
    c.get(AT);
    c.i32(by);
    c.atomic(ATOMIC_ADD, offset);
    c.op(DROP);
}

/// Takes pieces until there are none. `matmul` is the number of the function that makes products.
pub(super) fn take(matmul: u32) -> Vec<u8> {
    let mut c = Code::new(1);
    let [piece, call, of_piece, first, n_panels] = [(); 5].map(|()| c.local(I32));
    c.bytes.extend(BLOCK_VOID);
    c.bytes.extend(LOOP_VOID);
    c.get(AT);
    c.i32(-1);
    c.atomic(ATOMIC_ADD, LEFT);
    c.set(piece);
    c.i32(1);
    c.get(piece);
    c.op(I32_GT_S);
    c.branch_if(1);
    for (offset, local) in [(OF_PIECE, of_piece), (N_PANELS, n_panels), (CALL_AT, call)] {
        c.load_i32(AT, offset, local);
    }
    // first = (piece - 1) · of_piece
    c.advance(piece, u32::MAX);
    c.get(piece);
    c.get(of_piece);
    c.op(I32_MUL);
    c.set(first);
    // n_panels = min(n_panels - first, of_piece)
    c.get(n_panels);
    c.get(first);
    c.op(I32_SUB);
    c.set(n_panels);
    c.get(n_panels);
    c.get(of_piece);
    c.get(n_panels);
    c.get(of_piece);
    c.op(I32_LT_U);
    c.op(SELECT);
    c.set(n_panels);
    [call, first, n_panels].into_iter().for_each(|local| c.get(local));
    c.op(CALL);
    leb(matmul, &mut c.bytes);
    add(&mut c, DONE, 1);
    c.op(BRANCH);
    leb(0, &mut c.bytes);
    c.op(END);
    c.op(END);
    c.finish()
}

/// Makes what the words say, with whoever helps; returns when it is whole. `take` is the number of [`take`].
pub(super) fn share(take: u32) -> Vec<u8> {
    let mut c = Code::new(1);
    let [n_pieces, done, looks] = [(); 3].map(|()| c.local(I32));
    c.load_i32(AT, N_PIECES, n_pieces);
    c.get(AT);
    c.i32(0);
    c.atomic(ATOMIC_STORE, DONE);
    c.get(AT);
    c.get(n_pieces);
    c.atomic(ATOMIC_STORE, LEFT);
    add(&mut c, EPOCH, 1);
    load(&mut c, N_SLEEPERS);
    c.bytes.extend(IF_VOID);
    c.get(AT);
    c.i32(-1); // all of them
    c.atomic(NOTIFY, EPOCH);
    c.op(DROP);
    c.op(END);
    c.get(AT);
    c.op(CALL);
    leb(take, &mut c.bytes);
    c.i32(N_LOOKS);
    c.set(looks);
    c.bytes.extend(BLOCK_VOID);
    c.bytes.extend(LOOP_VOID);
    load(&mut c, DONE);
    c.set(done);
    c.get(done);
    c.get(n_pieces);
    c.op(I32_EQ);
    c.branch_if(1);
    c.advance(looks, u32::MAX);
    c.get(looks);
    c.i32(0);
    c.op(I32_GT_S);
    c.branch_if(0);
    c.get(AT);
    c.get(done);
    c.i64(NAP);
    c.atomic(WAIT_I32, DONE);
    c.op(DROP);
    c.op(BRANCH);
    leb(0, &mut c.bytes);
    c.op(END);
    c.op(END);
    c.finish()
}

/// Takes pieces for ever, and sleeps where there have been none for a while. `take` is the number of [`take`].
pub(super) fn help(take: u32) -> Vec<u8> {
    let mut c = Code::new(1);
    let [looks, epoch] = [(); 2].map(|()| c.local(I32));
    let has_pieces = |c: &mut Code| {
        load(c, LEFT);
        c.i32(0);
        c.op(I32_GT_S);
    };
    c.bytes.extend(LOOP_VOID);
    c.i32(N_LOOKS);
    c.set(looks);
    c.bytes.extend(LOOP_VOID);
    has_pieces(&mut c);
    c.bytes.extend(IF_VOID);
    c.get(AT);
    c.op(CALL);
    leb(take, &mut c.bytes);
    c.op(BRANCH);
    leb(2, &mut c.bytes);
    c.op(END);
    c.repeat(looks);
    // a product that is shared from here on either finds this one among the sleepers or has changed the epoch
    add(&mut c, N_SLEEPERS, 1);
    load(&mut c, EPOCH);
    c.set(epoch);
    has_pieces(&mut c);
    c.op(I32_EQZ);
    c.bytes.extend(IF_VOID);
    c.get(AT);
    c.get(epoch);
    c.i64(-1);
    c.atomic(WAIT_I32, EPOCH);
    c.op(DROP);
    c.op(END);
    add(&mut c, N_SLEEPERS, -1);
    c.op(BRANCH);
    leb(0, &mut c.bytes);
    c.op(END);
    c.finish()
}
