//! Compiles the code that counts the branches of the C libraries, and links it into every target.

use std::{env, error::Error};

const COVERAGE: &str = "src/coverage.c";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={COVERAGE}");
    cc::Build::new().file(COVERAGE).cargo_metadata(false).compile("coverage");
    // Not as a library: targets that use nothing of this package's own library would not link it.
    let archive = format!("{}/libcoverage.a", env::var("OUT_DIR")?);
    println!(
        "cargo:rustc-link-arg-bins=-Wl,--whole-archive,{archive},--no-whole-archive,--wrap=__sanitizer_cov_trace_pc"
    );
    Ok(())
}
