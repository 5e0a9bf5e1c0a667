//! Which addresses are on the public Internet, from IANA's special-purpose address registries.
//!
//! A fetcher of untrusted URLs must reach nothing else: not this machine, not its network, not a cloud's metadata service,
//! in whatever notation or tunnel the address is wrapped. Blocks that IANA calls reachable but that serve a protocol rather
//! than web pages (AS112, AMT, 6to4 relays) are refused too: a network may route them to its own servers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether `address` is globally reachable unicast.
pub(super) fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_global_v4(address),
        IpAddr::V6(address) => is_global_v6(address),
    }
}

/// Blocks of IPv4 that are not public, as (network, prefix length).
const SPECIAL_V4: [([u8; 4], u32); 19] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 0, 2, 0], 24),
    ([192, 31, 196, 0], 24),
    ([192, 52, 193, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([192, 175, 48, 0], 24),
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    // Azure's platform address: a public number that serves metadata inside Azure.
    ([168, 63, 129, 16], 32),
    ([224, 0, 0, 0], 4),
    ([240, 0, 0, 0], 4),
];

/// Blocks inside `2000::/3` that are not public: IETF protocols (Teredo, benchmarking, AMT, ORCHID, DRIP), documentation,
/// 6to4, AS112, documentation; as (network, prefix length).
const SPECIAL_V6: [(u128, u32); 5] = [
    (0x2001_0000 << 96, 23),
    (0x2001_0db8 << 96, 32),
    (0x2002_0000 << 96, 16),
    (0x2620_004f_8000 << 80, 48),
    (0x3fff_0000 << 96, 20),
];

/// The well-known NAT64 prefix `64:ff9b::/96`: the last 32 bits are an IPv4 address.
const NAT64: u128 = 0x0064_ff9b << 96;

fn is_global_v4(address: Ipv4Addr) -> bool {
    let bits = address.to_bits();
    let is_inside = |(network, length): &([u8; 4], u32)| (bits ^ u32::from_be_bytes(*network)) >> (32 - length) == 0;
    !SPECIAL_V4.iter().any(is_inside)
}

fn is_global_v6(address: Ipv6Addr) -> bool {
    let bits = address.to_bits();
    let is_inside = |(network, length): &(u128, u32)| (bits ^ network) >> (128 - length) == 0;
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_global_v4(mapped);
    }
    if is_inside(&(NAT64, 96)) {
        return is_global_v4(Ipv4Addr::from_bits(bits as u32));
    }
    // Only 2000::/3 is assigned as global unicast; all else is local, multicast, deprecated or unassigned.
    is_inside(&(0x2000 << 112, 3)) && !SPECIAL_V6.iter().any(is_inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_special_block_is_refused_at_both_ends() {
        let refused = "0.0.0.0 0.255.255.255 10.0.0.1 10.255.255.255 100.64.0.0 100.127.255.255 127.0.0.1 \
            127.255.255.255 169.254.0.0 169.254.255.255 172.16.0.0 172.31.255.255 192.0.0.1 192.0.0.255 192.0.2.5 \
            192.31.196.1 192.52.193.1 192.88.99.1 192.168.0.0 192.168.255.255 192.175.48.255 198.18.0.0 \
            198.19.255.255 198.51.100.1 203.0.113.255 224.0.0.1 239.255.255.255 240.0.0.0 255.255.255.255 \
            :: ::1 100::1 100:0:0:1::1 2001::1 2001:2::1 2001:3::1 2001:10::1 2001:20::1 2001:30::1 2001:1ff:ffff::1 \
            2001:db8::1 2620:4f:8000::1 3fff::1 3fff:fff::1 5f00::1 fc00::1 fdff::1 fe80::1 fec0::1 ff02::1 ff0e::1 \
            1fff::1 4000::1";
        for text in refused.split_whitespace() {
            assert!(!is_global(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn an_ipv4_address_inside_an_ipv6_one_is_refused() {
        // Compatible, mapped, translated, NAT64 (well-known and local), 6to4, Teredo.
        let refused = "::7f00:1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:100.64.0.1 ::ffff:0:8.8.8.8 \
            64:ff9b::7f00:1 64:ff9b::10.0.0.1 64:ff9b::1:0:0 64:ff9b:1::1 64:ff9b:1::8.8.8.8 64:ff9b:1:ffff::a00:1 \
            2002:7f00:1::1 2002:808:808::1 2001:0:7f00:1::1 2001::53aa:64c:0:f5ff:ffff";
        for text in refused.split_whitespace() {
            assert!(!is_global(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn the_metadata_services_of_clouds_are_refused() {
        // AWS, Azure, Google and most others; AWS ECS and EKS; Azure's platform; Alibaba; Oracle; IPv6 of AWS, Google, Oracle.
        let refused = "169.254.169.254 169.254.170.2 169.254.170.23 168.63.129.16 100.100.100.200 192.0.0.192 \
            fd00:ec2::254 fd00:ec2::23 fd20:ce::254 fd00:c1::a9fe:a9fe fe80::a9fe:a9fe \
            ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe 64:ff9b::168.63.129.16 64:ff9b:1::a9fe:a9fe ::ffff:100.100.100.200";
        for text in refused.split_whitespace() {
            assert!(!is_global(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn the_neighbours_of_special_blocks_are_public() {
        let public = "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 \
            168.63.129.15 168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.0 192.31.195.255 \
            192.167.255.255 192.169.0.0 192.175.49.0 198.17.255.255 198.20.0.0 203.0.112.255 203.0.114.0 \
            223.255.255.255 ::ffff:8.8.8.8 64:ff9b::808:808 2001:200::1 2001:4860:4860::8888 2001:db7::1 2001:db9::1 \
            2003::1 2606:4700::1111 2620:4f:7fff::1 2620:4f:8001::1 3ffe::1 3fff:1000::1 2a00:1450::1";
        for text in public.split_whitespace() {
            assert!(is_global(text.parse().unwrap()), "{text}");
        }
    }
}
