#!/bin/sh
# Cargo's RUSTC_WRAPPER for `make fuzz-quick`: only the service's own crate is instrumented, so that every library is the one
# that `make build` left.
case " $* " in
*" --crate-name blip_serve"*) exec "$@" $FUZZ_RUSTFLAGS ;;
*) exec "$@" ;;
esac
