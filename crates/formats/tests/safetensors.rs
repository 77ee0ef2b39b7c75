//! The container: damaged headers, FP8 blocks, and files byte-identical to the reference writer's.

mod common;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use common::file;
use loar_formats::FormatError;
use loar_formats::safetensors::{Checkpoint, DType, TensorOut, e8m0_to_f32, encode, parse_header, write_file};
use loar_kernels::quant::E4M3;

fn text(error: FormatError) -> String {
    error.to_string()
}

fn header_faults(bytes: &[u8]) -> String {
    parse_header(bytes).unwrap_err().to_string()
}

#[test]
fn rewritten_fixtures_are_byte_identical() {
    for name in common::MODELS {
        for part in ["model.safetensors", "adapter/adapter_model.safetensors"] {
            let Some(path) = common::fixture(&format!("{name}/{part}")) else {
                return;
            };
            let checkpoint = Checkpoint::open_file(&path).unwrap();
            let tensors: Vec<TensorOut> = checkpoint
                .tensors()
                .map(|info| TensorOut {
                    name: info.name.clone(),
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                    data: Cow::Owned(checkpoint.bytes(&info.name).unwrap().to_vec()),
                })
                .collect();
            let written = encode(&tensors, checkpoint.metadata()).unwrap();
            assert!(written == std::fs::read(&path).unwrap(), "{}", path.display());
        }
    }
}

#[test]
fn golden_files_with_integers_are_read() {
    let Some(path) = common::fixture("llama/golden.safetensors") else {
        return;
    };
    let golden = Checkpoint::open_file(&path).unwrap();
    assert_eq!(golden.info("input_ids").unwrap().shape, [3, 40]);
    assert!(matches!(golden.to_f32("input_ids"), Err(FormatError::Tensor { .. })));
    assert_eq!(golden.to_f32("base.logits").unwrap().len(), 3 * 40 * 256);
    assert!(matches!(golden.bytes("nothing"), Err(FormatError::NoTensor { .. })));
}

#[test]
fn damaged_headers_are_refused_with_a_reason() {
    let one = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    assert!(parse_header(&file(one, &[0; 8])).is_ok());
    assert!(parse_header(&file(&format!("{one}   "), &[0; 8])).is_ok(), "space padding is valid");
    for (bytes, part) in [
        (b"short".to_vec(), "too few"),
        (u64::MAX.to_le_bytes().to_vec(), "claims 18446744073709551615 bytes"),
        (100_000_001u64.to_le_bytes().to_vec(), "at most 100000000"),
        (1000u64.to_le_bytes().to_vec(), "the file is cut"),
        (file(one, &[0; 7]), "the file is cut"),
        (file(one, &[0; 9]), "the tensors end at byte 8 of 9"),
        (file(&format!(" {one}"), &[0; 8]), "does not start with an object"),
        (file("{", &[]), "not valid"),
        (file("[]", &[]), "does not start with an object"),
        (file(r#"{"a":1}"#, &[]), "not valid"),
        (file(r#"{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}"#, &[0; 8]), "`F33`"),
        (file(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, &[0; 8]), "needs 12 bytes"),
        (file(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, &[0; 8]), "needs 8 bytes"),
        (file(r#"{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#, &[0; 8]), "not valid"),
        (
            file(r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,8]}}"#, &[0; 8]),
            "overflows",
        ),
        (
            file(
                r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}"#,
                &[0; 4],
            ),
            "stands twice",
        ),
        (
            file(
                r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#,
                &[0; 3],
            ),
            "an overlap with tensor `b`",
        ),
        (
            file(
                r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}}"#,
                &[0; 5],
            ),
            "a hole before tensor `b`",
        ),
        (file(r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#, &[0; 2]), "a hole before tensor `a`"),
        (file(r#"{"__metadata__":{"a":1}}"#, &[]), "not valid"),
        (file(r#"{"__metadata__":{},"__metadata__":{}}"#, &[]), "stands twice"),
        (b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "git lfs pull"),
        (b"PK\x03\x04 and more".to_vec(), "PyTorch pickle"),
    ] {
        let found = header_faults(&bytes);
        assert!(found.contains(part), "no `{part}` in `{found}`");
    }
}

#[test]
fn all_faults_of_a_header_are_listed() {
    let header = r#"{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[3],"data_offsets":[0,8]},"c":{"dtype":"F32","shape":[1],"data_offsets":[8,90]}}"#;
    assert_eq!(parse_header(&file(header, &[0; 12])).unwrap_err().0.len(), 3);
}

#[test]
fn empty_and_scalar_tensors_and_unaligned_data_are_read() {
    let header = r#"{"s":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"e":{"dtype":"F32","shape":[0,7],"data_offsets":[1,1]},"f":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}"#;
    let mut data = vec![9u8];
    data.extend(1.5f32.to_le_bytes());
    data.extend((-2.25f32).to_le_bytes());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    std::fs::write(&path, file(header, &data)).unwrap();
    let checkpoint = Checkpoint::open_file(&path).unwrap();
    assert_eq!(checkpoint.to_f32("f").unwrap(), [1.5, -2.25]);
    assert_eq!(checkpoint.to_f32("e").unwrap(), [0f32; 0]);
    assert_eq!(checkpoint.info("s").unwrap().numel(), 1);
    let bytes = checkpoint.bytes("f").unwrap();
    drop(checkpoint);
    assert_eq!(bytes.len(), 8, "the bytes outlive the checkpoint");
}

#[test]
fn e4m3_and_e8m0_are_exact() {
    // OCP FP8 specification: S.1111.110 = 448, S.0000.001 = 2^-9, S.0001.000 = 2^-6, S.0111.000 = 1
    for (byte, value) in [
        (0x00, 0.0),
        (0x01, 2f32.powi(-9)),
        (0x07, 7.0 * 2f32.powi(-9)),
        (0x08, 2f32.powi(-6)),
        (0x38, 1.0),
        (0x3b, 1.375),
        (0x40, 2.0),
        (0x7e, 448.0),
        (0xb8, -1.0),
        (0xfe, -448.0),
    ] {
        assert_eq!(E4M3[byte], value, "{byte:#x}");
    }
    assert!(E4M3[0x7f].is_nan() && E4M3[0xff].is_nan());
    assert_eq!(E4M3.iter().filter(|v| v.is_nan()).count(), 2);
    assert!(E4M3[..0x7f].windows(2).all(|w| w[0] < w[1]), "codes rise with their value");
    assert_eq!(e8m0_to_f32(127), 1.0);
    assert_eq!(e8m0_to_f32(120), 2f32.powi(-7));
    assert_eq!(e8m0_to_f32(0), 2f32.powi(-127));
    assert_eq!(e8m0_to_f32(254), 2f32.powi(127));
    assert!(e8m0_to_f32(255).is_nan());
}

/// `[3, 5]` in blocks of 2×2: row blocks of 2 and 1, column blocks of 2, 2 and 1.
fn fp8(scale: TensorOut<'static>) -> Vec<TensorOut<'static>> {
    // 0x38 = 1, 0x40 = 2, 0xb8 = -1, 0x3c = 1.5, 0x30 = 0.5
    let codes = [0x38u8, 0x40, 0xb8, 0x3c, 0x30, 0x38, 0x38, 0x40, 0x40, 0x38, 0x30, 0xb8, 0x38, 0x40, 0x3c];
    vec![
        TensorOut {
            name: "w.weight".into(),
            dtype: DType::F8E4M3,
            shape: vec![3, 5],
            data: Cow::Owned(codes.to_vec()),
        },
        scale,
    ]
}

fn open(dir: &Path, tensors: &[TensorOut<'_>]) -> Checkpoint {
    let path = dir.join("model.safetensors");
    write_file(&path, tensors, &BTreeMap::new()).unwrap();
    Checkpoint::open_file(&path).unwrap()
}

#[test]
fn fp8_blocks_are_multiplied_ragged_at_the_ends() {
    let dir = tempfile::tempdir().unwrap();
    let scales = [2.0f32, 10.0, 100.0, 0.5, 4.0, 1000.0];
    let expected = [
        2.0f32, 4.0, -10.0, 15.0, 50.0, // row 0: blocks 2, 10, 100
        2.0, 2.0, 20.0, 20.0, 100.0, // row 1
        0.25, -0.5, 4.0, 8.0, 1500.0, // row 2: blocks 0.5, 4, 1000
    ];
    let scale = TensorOut::f32("w.weight_scale_inv", vec![2, 3], &scales);
    let checkpoint = open(dir.path(), &fp8(scale)).with_block_size([2, 2]);
    assert_eq!(checkpoint.to_f32("w.weight").unwrap(), expected);
    let bits = checkpoint.to_bf16("w.weight").unwrap();
    assert_eq!(bits[4], (50f32.to_bits() >> 16) as u16);
    // scales stored as powers of two
    let scale = TensorOut {
        name: "w.weight_scale_inv".into(),
        dtype: DType::F8E8M0,
        shape: vec![2, 3],
        data: Cow::Owned(vec![128, 127, 126, 127, 127, 130]),
    };
    let checkpoint = open(dir.path(), &fp8(scale)).with_block_size([2, 2]);
    let values = checkpoint.to_f32("w.weight").unwrap();
    assert_eq!(values[..5], [2.0, 4.0, -1.0, 1.5, 0.25]);
    assert_eq!(values[14], 12.0);
}

#[test]
fn fp8_of_576_rows_has_a_last_block_of_64() {
    let dir = tempfile::tempdir().unwrap();
    let (rows, columns) = (576usize, 200usize);
    let tensors = [
        TensorOut {
            name: "w".into(),
            dtype: DType::F8E4M3,
            shape: vec![rows, columns],
            data: Cow::Owned(vec![0x38; rows * columns]),
        },
        TensorOut::f32("w_scale_inv", vec![5, 2], &(0..10).map(|i| i as f32 + 1.0).collect::<Vec<_>>()),
    ];
    let values = open(dir.path(), &tensors).to_f32("w").unwrap();
    for (i, value) in values.iter().enumerate() {
        let (row, column) = (i / columns, i % columns);
        assert_eq!(*value, (row / 128 * 2 + column / 128 + 1) as f32, "[{row}, {column}]");
    }
}

#[test]
fn fp8_without_fitting_scales_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let scale = TensorOut::f32("w.weight_scale_inv", vec![2, 2], &[1.0; 4]);
    let checkpoint = open(dir.path(), &fp8(scale)).with_block_size([2, 2]);
    let found = text(checkpoint.to_f32("w.weight").unwrap_err());
    assert!(found.contains("expected shape [2, 3] for blocks of 2 x 2, found shape [2, 2]"), "{found}");
    let other = TensorOut::f32("other", vec![1], &[1.0]);
    let found = text(open(dir.path(), &fp8(other)).to_f32("w.weight").unwrap_err());
    assert!(found.contains("`w.weight_scale_inv` of shape [1, 1], found none"), "{found}");
}

#[test]
fn half_types_convert_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let half = |name: &str, dtype, bits: &[u16]| TensorOut {
        name: name.into(),
        dtype,
        shape: vec![bits.len()],
        data: Cow::Owned(bits.iter().flat_map(|b| b.to_le_bytes()).collect()),
    };
    let tensors = [
        half("h", DType::F16, &[0x3c00, 0xc000, 0x0001, 0x7bff]),
        half("b", DType::BF16, &[0x3f80, 0xc000, 0x0001]),
        TensorOut::bf16("r", vec![3], &[1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 1.0]),
    ];
    let checkpoint = open(dir.path(), &tensors);
    assert_eq!(checkpoint.to_f32("h").unwrap(), [1.0, -2.0, 2f32.powi(-24), 65504.0]);
    assert_eq!(checkpoint.to_f32("b").unwrap(), [1.0, -2.0, f32::from_bits(0x0001_0000)]);
    assert_eq!(checkpoint.to_bf16("b").unwrap(), [0x3f80, 0xc000, 0x0001]);
    // ties go to the even neighbour: 1 + 1/256 down, 1 + 3/256 up
    assert_eq!(checkpoint.to_f32("r").unwrap(), [1.0, 1.015625, 1.0]);
    assert!(checkpoint.read_f32("r", &mut [0.0; 2]).is_err());
}

#[test]
fn unfit_tensors_are_not_written() {
    let bad = [
        TensorOut::f32("a", vec![2], &[0.0; 3]),
        TensorOut::f32("a", vec![1], &[0.0]),
        TensorOut::f32("__metadata__", vec![1], &[0.0]),
    ];
    assert_eq!(encode(&bad, &BTreeMap::new()).unwrap_err().0.len(), 3);
}
