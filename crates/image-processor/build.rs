//! Determines which JPEG code was built: mozjpeg-sys assembles its SIMD code where it can and falls back to plain C.

use std::{env, error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=REQUIRE_JPEG_SIMD");
    // The C files were compiled with this header.
    let include = env::var_os("DEP_JPEG_INCLUDE").ok_or("mozjpeg-sys does not name its headers")?;
    let header = env::split_paths(&include)
        .map(|folder| folder.join("jconfig.h"))
        .find(|path| Path::exists(path))
        .ok_or("mozjpeg-sys has no jconfig.h")?;
    println!("cargo::rerun-if-changed={}", header.display());
    let has_simd = fs::read_to_string(header)?.lines().any(|line| line.trim() == "#define WITH_SIMD 1");
    if !has_simd && env::var_os("REQUIRE_JPEG_SIMD").is_some() {
        return Err("the JPEG decoder was built without SIMD code: install nasm, then `cargo clean`".into());
    }
    println!("cargo::rustc-env=JPEG_CODE={}", if has_simd { "simd" } else { "scalar" });
    Ok(())
}
