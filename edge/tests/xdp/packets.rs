//! Builds Ethernet frames byte by byte, independently of the parser under test.

use std::net::SocketAddr;

/// The layers around a TCP header.
#[derive(Clone, Debug)]
pub struct Packet {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// Tag protocol identifiers, outermost first.
    pub tags: Vec<u16>,
    /// Words of 4 bytes of IPv4 options.
    pub options: u8,
    /// IPv6 extension headers: type and units of 8 bytes beyond the first.
    pub extensions: Vec<(u8, u8)>,
    pub protocol: u8,
    /// Flags and offset of the IPv4 fragment.
    pub fragment: u16,
    pub payload: usize,
}

impl Packet {
    pub fn new(source: &str, destination: &str) -> Packet {
        Packet {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            tags: vec![],
            options: 0,
            extensions: vec![],
            protocol: 6,
            fragment: 0x4000,
            payload: 0,
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for tag in &self.tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0x20, 0x07]);
        }
        match (self.source.ip(), self.destination.ip()) {
            (std::net::IpAddr::V4(source), std::net::IpAddr::V4(destination)) => {
                frame.extend([0x08, 0x00]);
                let header = 20 + 4 * u16::from(self.options);
                frame.extend([0x40 | (header / 4) as u8, 0]);
                frame.extend((header + 20 + self.payload as u16).to_be_bytes());
                frame.extend([0x12, 0x34]);
                frame.extend(self.fragment.to_be_bytes());
                frame.extend([64, self.protocol, 0, 0]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
                frame.extend(vec![1; 4 * usize::from(self.options)]);
            }
            (std::net::IpAddr::V6(source), std::net::IpAddr::V6(destination)) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                let extensions: usize =
                    self.extensions.iter().map(|(_, units)| 8 * (usize::from(*units) + 1)).sum();
                frame.extend(((extensions + 20 + self.payload) as u16).to_be_bytes());
                let kinds = self.extensions.iter().map(|(kind, _)| *kind).chain([self.protocol]);
                let kinds: Vec<u8> = kinds.collect();
                frame.extend([kinds[0], 64]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
                for ((_, units), next) in self.extensions.iter().zip(&kinds[1..]) {
                    frame.extend([*next, *units]);
                    frame.extend(vec![0; 8 * (usize::from(*units) + 1) - 2]);
                }
            }
            _ => panic!("mixed families"),
        }
        frame.extend(self.source.port().to_be_bytes());
        frame.extend(self.destination.port().to_be_bytes());
        frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
        frame.extend(vec![0xaa; self.payload]);
        frame
    }

    /// Where the TCP header ends, reckoned from the layers.
    pub fn headers_bytes(&self) -> usize {
        self.bytes().len() - self.payload
    }

    /// The flow the parser must find.
    pub fn flow(&self) -> edge_ebpf::Flow {
        edge_ebpf::Flow {
            source: edge::xdp::service(self.source).address,
            destination: edge::xdp::service(self.destination).address,
            source_port: self.source.port(),
            destination_port: self.destination.port(),
        }
    }
}

/// An address made of random bits.
pub fn random_address(random: &mut crate::Random, is_ipv4: bool) -> SocketAddr {
    let (high, low, port) = (random.word(), random.word(), random.word() as u16);
    if is_ipv4 {
        return SocketAddr::new(std::net::Ipv4Addr::from(high as u32).into(), port);
    }
    SocketAddr::new(std::net::Ipv6Addr::from(u128::from(high) << 64 | u128::from(low)).into(), port)
}
