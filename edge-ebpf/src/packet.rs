//! Finds the TCP flow in a packet: Ethernet, up to two VLAN tags (IEEE 802.1Q, 802.1ad), IPv4
//! (RFC 791) or IPv6 (RFC 8200) with a bounded walk over extension headers, TCP (RFC 9293).
//!
//! Written once over [`Head`], so the XDP program and the tests in user space run the same code. It
//! decides nothing about what happens to a packet and keeps no state. Lengths that IP headers claim
//! for the payload are left to the kernel: only headers are read.

use crate::flow::{Flow, IPV4_MAPPED};

/// VLAN tags that are skipped.
pub const VLAN_TAGS_MAX: usize = 2;
/// IPv6 extension headers that are walked; real traffic carries none or one.
pub const EXTENSION_HEADERS_MAX: usize = 4;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;
const ETHERNET_BYTES: usize = 14;
const VLAN_TAG_BYTES: usize = 4;
const IPV4_BYTES_MIN: usize = 20;
const IPV6_BYTES: usize = 40;
const TCP_BYTES_MIN: usize = 20;
const PROTOCOL_TCP: u8 = 6;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// Read access to the first bytes of a packet.
pub trait Head {
    /// The `N` bytes at `offset`, or nothing if the packet ends before them.
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
}

impl Head for [u8] {
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..offset.checked_add(N)?)?.try_into().ok()
    }
}

/// Why a packet carries no flow to steer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Neither IPv4 nor IPv6.
    NotIp,
    /// Cut short, or a header length below its minimum.
    Malformed,
    /// An IP fragment.
    Fragment,
    /// Another protocol than TCP.
    NotTcp,
    /// More than [`EXTENSION_HEADERS_MAX`] IPv6 extension headers.
    Extensions,
}

/// The TCP flow of an Ethernet frame.
#[inline(always)]
pub fn parse<H: Head + ?Sized>(head: &H) -> Result<Flow, Pass> {
    let (ethertype, offset) = ethernet(head)?;
    match ethertype {
        ETHERTYPE_IPV4 => ipv4(head, offset),
        ETHERTYPE_IPV6 => ipv6(head, offset),
        _ => Err(Pass::NotIp),
    }
}

/// The type of the payload and where it begins.
#[inline(always)]
fn ethernet<H: Head + ?Sized>(head: &H) -> Result<(u16, usize), Pass> {
    let mut offset = ETHERNET_BYTES;
    let mut ethertype = u16_at(head, offset - 2)?;
    for _ in 0..VLAN_TAGS_MAX {
        if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_SERVICE_VLAN {
            break;
        }
        offset += VLAN_TAG_BYTES;
        ethertype = u16_at(head, offset - 2)?;
    }
    Ok((ethertype, offset))
}

#[inline(always)]
fn ipv4<H: Head + ?Sized>(head: &H, offset: usize) -> Result<Flow, Pass> {
    let fixed: [u8; IPV4_BYTES_MIN] = at(head, offset)?;
    let header_bytes = (fixed[0] & 0x0f) as usize * 4;
    if fixed[0] >> 4 != 4 || header_bytes < IPV4_BYTES_MIN {
        return Err(Pass::Malformed);
    }
    // The more-fragments bit and the 13 bits of the fragment offset.
    if fixed[6] & 0x3f != 0 || fixed[7] != 0 {
        return Err(Pass::Fragment);
    }
    if fixed[9] != PROTOCOL_TCP {
        return Err(Pass::NotTcp);
    }
    let (source_port, destination_port) = tcp_ports(head, offset + header_bytes)?;
    let source = u32::from_ne_bytes([fixed[12], fixed[13], fixed[14], fixed[15]]);
    let destination = u32::from_ne_bytes([fixed[16], fixed[17], fixed[18], fixed[19]]);
    Ok(Flow {
        source: [0, 0, IPV4_MAPPED, source],
        destination: [0, 0, IPV4_MAPPED, destination],
        source_port,
        destination_port,
    })
}

#[inline(always)]
fn ipv6<H: Head + ?Sized>(head: &H, offset: usize) -> Result<Flow, Pass> {
    let [first] = at(head, offset)?;
    if first >> 4 != 6 {
        return Err(Pass::Malformed);
    }
    let [mut next] = at(head, offset + 6)?;
    let source = address(head, offset + 8)?;
    let destination = address(head, offset + 24)?;
    let mut offset = offset + IPV6_BYTES;
    for _ in 0..EXTENSION_HEADERS_MAX {
        if !matches!(next, HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS) {
            break;
        }
        // RFC 8200 section 4.3: the length counts units of 8 bytes beyond the first.
        let [following, units] = at(head, offset)?;
        next = following;
        offset += (units as usize + 1) * 8;
    }
    match next {
        PROTOCOL_TCP => {}
        FRAGMENT => return Err(Pass::Fragment),
        HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => return Err(Pass::Extensions),
        _ => return Err(Pass::NotTcp),
    }
    let (source_port, destination_port) = tcp_ports(head, offset)?;
    Ok(Flow { source, destination, source_port, destination_port })
}

/// The ports of a TCP header that is there in full.
#[inline(always)]
fn tcp_ports<H: Head + ?Sized>(head: &H, offset: usize) -> Result<(u16, u16), Pass> {
    let fixed: [u8; TCP_BYTES_MIN] = at(head, offset)?;
    if (fixed[12] >> 4) < 5 {
        return Err(Pass::Malformed);
    }
    Ok((u16::from_be_bytes([fixed[0], fixed[1]]), u16::from_be_bytes([fixed[2], fixed[3]])))
}

#[inline(always)]
fn address<H: Head + ?Sized>(head: &H, offset: usize) -> Result<[u32; 4], Pass> {
    Ok([
        u32::from_ne_bytes(at(head, offset)?),
        u32::from_ne_bytes(at(head, offset + 4)?),
        u32::from_ne_bytes(at(head, offset + 8)?),
        u32::from_ne_bytes(at(head, offset + 12)?),
    ])
}

#[inline(always)]
fn u16_at<H: Head + ?Sized>(head: &H, offset: usize) -> Result<u16, Pass> {
    Ok(u16::from_be_bytes(at(head, offset)?))
}

#[inline(always)]
fn at<const N: usize, H: Head + ?Sized>(head: &H, offset: usize) -> Result<[u8; N], Pass> {
    match head.bytes(offset) {
        Some(bytes) => Ok(bytes),
        None => Err(Pass::Malformed),
    }
}
