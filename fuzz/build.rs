//! Hands on what the service's own build script tells the linker, which cargo does only for that package's binaries, and
//! compiles what counts the branches of C code.

use std::{env, error::Error, fs};

/// Where functions of libjpeg are replaced.
const FOLDER: &str = "../src/image/decode/jpeg";
const COVERAGE: &str = "src/coverage.c";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={FOLDER}");
    println!("cargo:rerun-if-changed={COVERAGE}");
    cc::Build::new().file(COVERAGE).cargo_metadata(false).compile("coverage");
    // Not as a library, which targets without a use for this package's own would not link.
    let archive = format!("{}/libcoverage.a", env::var("OUT_DIR")?);
    println!(
        "cargo:rustc-link-arg-bins=-Wl,--whole-archive,{archive},--no-whole-archive,--wrap=__sanitizer_cov_trace_pc"
    );
    if env::var("CARGO_CFG_TARGET_ARCH")? != "x86_64" || env::var("CARGO_CFG_TARGET_OS")? != "linux" {
        return Ok(());
    }
    for entry in fs::read_dir(FOLDER)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "c") {
            continue;
        }
        for definition in fs::read_to_string(path)?.split("__wrap_").skip(1) {
            let (name, _) = definition.split_once('(').unwrap_or_default();
            println!("cargo:rustc-link-arg-bins=-Wl,--wrap={name}");
        }
    }
    Ok(())
}
