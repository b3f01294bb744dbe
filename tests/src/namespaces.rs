//! Three machines with networks between them that can be cut: network namespaces of Linux.

use exodrive_runtime::services::NatsPlace;
use std::{net::Ipv4Addr, process::Command};

const MACHINES: u8 = 3;

/// The network that a link belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Of clients and servers.
    Clients,
    /// Of the servers among themselves.
    Servers,
}

impl Network {
    const ALL: [Self; 2] = [Self::Clients, Self::Servers];

    fn letter(self) -> char {
        match self {
            Self::Clients => 'c',
            Self::Servers => 's',
        }
    }
}

/// Three namespaces, each with a link to both networks. Dropping it removes them.
pub struct Namespaces {
    /// Begins the names of all that is made; short, since a link's name has 15 letters at most.
    name: String,
    /// Their addresses are in 10.x.0.0/16.
    x: u8,
}

impl Namespaces {
    /// Makes them.
    ///
    /// # Errors
    /// The reason why they cannot be made here.
    pub fn make() -> Result<Self, String> {
        let random = rand::random::<u16>();
        let made = Self { name: format!("exo{random:04x}"), x: (random % 200) as u8 + 50 };
        for machine in 1..=MACHINES {
            ip(&format!("netns add {}", made.namespace(machine)))?;
            ip(&format!("-n {} link set lo up", made.namespace(machine)))?;
        }
        for network in Network::ALL {
            let bridge = made.bridge(network);
            ip(&format!("link add {bridge} type bridge"))?;
            ip(&format!("link set {bridge} up"))?;
            for machine in 1..=MACHINES {
                let (link, inside) = (made.link(network, machine), network.letter());
                let (namespace, address) =
                    (made.namespace(machine), made.address(network, machine));
                ip(&format!("link add {link} type veth peer name {inside} netns {namespace}"))?;
                ip(&format!("link set {link} master {bridge} up"))?;
                ip(&format!("-n {namespace} addr add {address}/24 dev {inside}"))?;
                ip(&format!("-n {namespace} link set {inside} up"))?;
            }
        }
        let (bridge, own) = (made.bridge(Network::Clients), made.address(Network::Clients, 254));
        ip(&format!("addr add {own}/24 dev {bridge}"))?;
        Ok(made)
    }

    /// The place of a server in each.
    pub fn places(&self) -> Vec<NatsPlace> {
        let place = |machine| NatsPlace {
            namespace: Some(self.namespace(machine)),
            clients: self.address(Network::Clients, machine),
            servers: self.address(Network::Servers, machine),
        };
        (1..=MACHINES).map(place).collect()
    }

    /// Cuts a machine, numbered from 1, off a network, or connects it again. Nobody is told.
    ///
    /// # Panics
    /// When that cannot be done.
    pub fn cut_off(&self, machine: u8, network: Network, off: bool) {
        let state = if off { "down" } else { "up" };
        ip(&format!("link set {} {state}", self.link(network, machine))).unwrap();
    }

    fn namespace(&self, machine: u8) -> String {
        format!("{}-{machine}", self.name)
    }

    fn bridge(&self, network: Network) -> String {
        format!("{}{}b", self.name, network.letter())
    }

    fn link(&self, network: Network, machine: u8) -> String {
        format!("{}{}{machine}", self.name, network.letter())
    }

    fn address(&self, network: Network, machine: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.x, u8::from(network == Network::Servers), machine)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for machine in 1..=MACHINES {
            for network in Network::ALL {
                let _ = ip(&format!("link del {}", self.link(network, machine)));
            }
            let _ = ip(&format!("netns del {}", self.namespace(machine)));
        }
        for network in Network::ALL {
            let _ = ip(&format!("link del {}", self.bridge(network)));
        }
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let done = Command::new("ip").args(arguments.split(' ')).output();
    let done = done.map_err(|error| format!("ip: {error}"))?;
    match done.status.success() {
        true => Ok(()),
        false => Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&done.stderr).trim())),
    }
}
