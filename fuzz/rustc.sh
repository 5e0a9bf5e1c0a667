#!/bin/sh
# Cargo's RUSTC_WRAPPER for `make fuzz-quick`: only the project's crates and the image decoders are instrumented, so that all
# other libraries are those that `make build` left. fuzz/Cargo.toml gives each of them another profile, or cargo would reuse them.
previous=
crate=
for argument in "$@"; do
  [ "$previous" = --crate-name ] && crate=$argument
  previous=$argument
done
case $crate in
blip_serve | generation | image_processor | image | png | gif | tiff) exec "$@" $FUZZ_RUSTFLAGS ;;
*) exec "$@" ;;
esac
