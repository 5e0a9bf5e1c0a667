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

    /// The blocks of IPv4 that are refused, as IANA's registry lists them: first and last address.
    const REFUSED_V4: [(&str, &str); 18] = [
        ("0.0.0.0", "0.255.255.255"),
        ("10.0.0.0", "10.255.255.255"),
        ("100.64.0.0", "100.127.255.255"),
        ("127.0.0.0", "127.255.255.255"),
        ("168.63.129.16", "168.63.129.16"),
        ("169.254.0.0", "169.254.255.255"),
        ("172.16.0.0", "172.31.255.255"),
        ("192.0.0.0", "192.0.0.255"),
        ("192.0.2.0", "192.0.2.255"),
        ("192.31.196.0", "192.31.196.255"),
        ("192.52.193.0", "192.52.193.255"),
        ("192.88.99.0", "192.88.99.255"),
        ("192.168.0.0", "192.168.255.255"),
        ("192.175.48.0", "192.175.48.255"),
        ("198.18.0.0", "198.19.255.255"),
        ("198.51.100.0", "198.51.100.255"),
        ("203.0.113.0", "203.0.113.255"),
        ("224.0.0.0", "255.255.255.255"),
    ];

    /// The blocks of IPv6 between which addresses are public.
    const REFUSED_V6: [(&str, &str); 7] = [
        ("::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("2620:4f:8000::", "2620:4f:8000:ffff:ffff:ffff:ffff:ffff"),
        ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("4000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ];

    #[test]
    fn every_block_of_ipv4_is_refused_at_both_ends_and_its_neighbours_are_public() {
        for (first, last) in REFUSED_V4 {
            let [first, last]: [Ipv4Addr; 2] = [first, last].map(|text| text.parse().unwrap());
            assert!(!is_global(first.into()) && !is_global(last.into()), "{first} {last}");
            let neighbours = [first.to_bits().checked_sub(1), last.to_bits().checked_add(1)];
            for neighbour in neighbours.into_iter().flatten().map(Ipv4Addr::from_bits) {
                assert!(is_global(neighbour.into()), "{neighbour}");
                assert!(is_global(neighbour.to_ipv6_mapped().into()), "{neighbour}");
            }
        }
    }

    #[test]
    fn every_block_of_ipv6_is_refused_at_both_ends_and_its_neighbours_are_public() {
        for (first, last) in REFUSED_V6 {
            let [first, last]: [Ipv6Addr; 2] = [first, last].map(|text| text.parse().unwrap());
            assert!(!is_global(first.into()) && !is_global(last.into()), "{first} {last}");
            let neighbours = [first.to_bits().checked_sub(1), last.to_bits().checked_add(1)];
            for neighbour in neighbours.into_iter().flatten().map(Ipv6Addr::from_bits) {
                assert!(is_global(neighbour.into()), "{neighbour}");
            }
        }
    }

    #[test]
    fn only_the_well_known_nat64_prefix_stands_for_ipv4_addresses() {
        for public in ["64:ff9b::808:808", "64:ff9b::9ff:ffff", "64:ff9b::b00:0"] {
            assert!(is_global(public.parse().unwrap()), "{public}");
        }
        for refused in
            ["64:ff9b::a00:0", "64:ff9b::aff:ffff", "64:ff9a:ffff:ffff:ffff:ffff:808:808", "64:ff9b::1:808:808"]
        {
            assert!(!is_global(refused.parse().unwrap()), "{refused}");
        }
    }

    #[test]
    fn special_addresses_inside_the_blocks_are_refused() {
        let refused = "100::1 100:0:0:1::1 2001::1 2001:2::1 2001:3::1 2001:10::1 2001:20::1 2001:30::1 2001:db8::1 \
            2620:4f:8000::1 3fff::1 5f00::1 fc00::1 fdff::1 fe80::1 fec0::1 ff02::1 ff0e::1 ::1 10.0.0.1 224.0.0.1 240.0.0.0";
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
    fn well_known_servers_are_public() {
        let public = "1.1.1.1 8.8.8.8 ::ffff:8.8.8.8 2001:4860:4860::8888 2606:4700::1111 2a00:1450::1";
        for text in public.split_whitespace() {
            assert!(is_global(text.parse().unwrap()), "{text}");
        }
    }
}
