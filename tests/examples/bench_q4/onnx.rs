//! The bytes of an ONNX model of `MatMulNBits` nodes side by side, all reading one input.
//!
//! Source of the field numbers: `onnx.proto3` of the ONNX repository; of the operator: ONNX Runtime's
//! `ContribOperators.md`. Protocol buffers as far as this needs them: varints and length-delimited fields.

/// One 4-bit matrix as the operator takes it.
pub struct Node<'a> {
    /// N.
    pub n_outputs: usize,
    /// K, a multiple of 32.
    pub cols: usize,
    /// `[N, K / 32, 16]` bytes, low nibble first.
    pub quants: &'a [u8],
    /// `[N, K / 32]`; the zero point is 8.
    pub scales: &'a [f32],
}

const FLOAT: u64 = 1;
const UINT8: u64 = 2;

/// A model with input `x` `[1, n_rows, K]` and output `y{i}` `[1, n_rows, N]` for node i.
pub fn model(n_rows: usize, nodes: &[Node]) -> Vec<u8> {
    let mut graph = Vec::new();
    for (i, node) in nodes.iter().enumerate() {
        bytes(&mut graph, 1, &node_proto(i, node));
    }
    bytes(&mut graph, 2, b"bench");
    for (i, node) in nodes.iter().enumerate() {
        let (n, blocks) = (node.n_outputs as u64, node.cols as u64 / 32);
        bytes(&mut graph, 5, &tensor(&format!("b{i}"), &[n, blocks, 16], UINT8, node.quants));
        let scales: Vec<u8> = node.scales.iter().flat_map(|s| s.to_le_bytes()).collect();
        bytes(&mut graph, 5, &tensor(&format!("s{i}"), &[n * blocks], FLOAT, &scales));
    }
    bytes(&mut graph, 11, &value("x", &[1, n_rows as u64, nodes[0].cols as u64]));
    for (i, node) in nodes.iter().enumerate() {
        bytes(&mut graph, 12, &value(&format!("y{i}"), &[1, n_rows as u64, node.n_outputs as u64]));
    }
    let mut model = Vec::new();
    int(&mut model, 1, 8); // version of the format
    bytes(&mut model, 7, &graph);
    for (domain, version) in [("", 17), ("com.microsoft", 1)] {
        let mut opset = Vec::new();
        bytes(&mut opset, 1, domain.as_bytes());
        int(&mut opset, 2, version);
        bytes(&mut model, 8, &opset);
    }
    model
}

fn node_proto(i: usize, node: &Node) -> Vec<u8> {
    let mut proto = Vec::new();
    for input in ["x".to_owned(), format!("b{i}"), format!("s{i}")] {
        bytes(&mut proto, 1, input.as_bytes());
    }
    bytes(&mut proto, 2, format!("y{i}").as_bytes());
    bytes(&mut proto, 4, b"MatMulNBits");
    for (name, number) in [("K", node.cols), ("N", node.n_outputs), ("bits", 4), ("block_size", 32)] {
        let mut attribute = Vec::new();
        bytes(&mut attribute, 1, name.as_bytes());
        int(&mut attribute, 3, number as u64);
        int(&mut attribute, 20, 2); // an integer
        bytes(&mut proto, 5, &attribute);
    }
    bytes(&mut proto, 7, b"com.microsoft");
    proto
}

fn tensor(name: &str, dims: &[u64], kind: u64, raw: &[u8]) -> Vec<u8> {
    let mut proto = Vec::new();
    dims.iter().for_each(|dim| int(&mut proto, 1, *dim));
    int(&mut proto, 2, kind);
    bytes(&mut proto, 8, name.as_bytes());
    bytes(&mut proto, 9, raw);
    proto
}

fn value(name: &str, dims: &[u64]) -> Vec<u8> {
    let (mut shape, mut tensor, mut kind, mut proto) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for dim in dims {
        let mut dimension = Vec::new();
        int(&mut dimension, 1, *dim);
        bytes(&mut shape, 1, &dimension);
    }
    int(&mut tensor, 1, FLOAT);
    bytes(&mut tensor, 2, &shape);
    bytes(&mut kind, 1, &tensor);
    bytes(&mut proto, 1, name.as_bytes());
    bytes(&mut proto, 2, &kind);
    proto
}

fn int(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
