//! Receive queues and interrupts of an interface, read and written under `/sys` and `/proc`. The
//! roots are arguments, so tests use a tree of their own. BPF is no concern of this file.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Whether the NIC itself can steer: one receive queue per worker, and for each worker's CPU an
/// interrupt of the device that is bound to it alone.
///
/// # Errors
/// What does not match.
pub fn rss_fits(sys: &Path, proc: &Path, interface: &str, cpus: &[usize]) -> Result<(), String> {
    let queues = receive_queues(sys, interface)?.len();
    if queues != cpus.len() {
        return Err(format!(
            "{interface} has {queues} receive queues for {} workers; `ethtool -L {interface} combined {}` changes that where the NIC can",
            cpus.len(),
            cpus.len()
        ));
    }
    let device = sys.join("class/net").join(interface).join("device");
    let interrupts = [device.join("msi_irqs"), device.join("../msi_irqs")];
    let Some(interrupts) = interrupts.iter().find_map(|directory| fs::read_dir(directory).ok()) else {
        return Err(format!("{interface} has no interrupts of its own"));
    };
    let bound: BTreeSet<usize> = interrupts
        .flatten()
        .filter_map(|entry| {
            let interrupt = proc.join("irq").join(entry.file_name());
            let list = fs::read_to_string(interrupt.join("effective_affinity_list"))
                .or_else(|_| fs::read_to_string(interrupt.join("smp_affinity_list")));
            list.ok()?.trim().parse().ok()
        })
        .collect();
    match cpus.iter().find(|cpu| !bound.contains(cpu)) {
        None => Ok(()),
        Some(cpu) => Err(format!(
            "no interrupt of {interface} is bound to CPU {cpu} alone; write the CPU to /proc/irq/N/smp_affinity_list"
        )),
    }
}

/// Receive packet steering that covers the workers' CPUs. Dropping it restores what was set before.
pub struct Rps {
    changed: Vec<PathBuf>,
}

impl Rps {
    /// Sets the mask of every receive queue. A mask that somebody else has set is not touched.
    pub fn start(sys: &Path, interface: &str, cpus: &[usize]) -> Result<Rps, String> {
        let mask = mask(cpus);
        let files: Vec<PathBuf> =
            receive_queues(sys, interface)?.iter().map(|queue| queue.join("rps_cpus")).collect();
        let mut rps = Rps { changed: Vec::new() };
        for file in files {
            let shown = file.display();
            let now = fs::read_to_string(&file).map_err(|error| format!("{shown}: {error}"))?;
            if is_same_mask(&now, &mask) {
                continue;
            }
            if !is_same_mask(&now, "0") {
                return Err(format!("{shown} already holds {}, which is left in place", now.trim()));
            }
            fs::write(&file, &mask)
                .map_err(|error| format!("{shown}: {error}; it needs root and a writable /sys"))?;
            rps.changed.push(file);
        }
        Ok(rps)
    }
}

impl Drop for Rps {
    fn drop(&mut self) {
        for file in &self.changed {
            if let Err(error) = fs::write(file, "0") {
                // A node that gave up CAP_NET_ADMIN cannot take it back; the next start finds its own mask.
                let file = file.display();
                tracing::warn!("receive packet steering stays set ({error}); `echo 0 > {file}` ends it");
            }
        }
    }
}

/// The directories of the receive queues.
fn receive_queues(sys: &Path, interface: &str) -> Result<Vec<PathBuf>, String> {
    let directory = sys.join("class/net").join(interface).join("queues");
    let entries = fs::read_dir(&directory).map_err(|error| {
        format!(
            "{}: {error}; in a network namespace its own sysfs has to be mounted on /sys",
            directory.display()
        )
    })?;
    let is_receive =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("rx-"));
    Ok(entries.flatten().map(|entry| entry.path()).filter(is_receive).collect())
}

/// A CPU mask as the kernel writes it: groups of 32 bits in hexadecimal, most significant first.
fn mask(cpus: &[usize]) -> String {
    let groups = cpus.iter().max().map_or(1, |highest| highest / 32 + 1);
    let mut words = vec![0_u32; groups];
    for cpu in cpus {
        words[cpu / 32] |= 1 << (cpu % 32);
    }
    let words: Vec<String> = words.iter().rev().map(|word| format!("{word:08x}")).collect();
    words.join(",")
}

/// Masks are equal whatever their leading zeros.
fn is_same_mask(one: &str, other: &str) -> bool {
    let digits = |mask: &str| mask.trim().replace(',', "").trim_start_matches('0').to_owned();
    digits(one) == digits(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree with `queues` receive queues whose interrupts are bound to `lists`.
    fn tree(name: &str, queues: usize, lists: &[&str]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("edge-system-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        for queue in 0..queues {
            let directory = root.join(format!("sys/class/net/eth7/queues/rx-{queue}"));
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("rps_cpus"), "00000000,00000000\n").unwrap();
        }
        for (interrupt, list) in lists.iter().enumerate() {
            fs::create_dir_all(root.join(format!("sys/class/net/eth7/device/msi_irqs/{interrupt}"))).unwrap();
            fs::create_dir_all(root.join(format!("proc/irq/{interrupt}"))).unwrap();
            fs::write(root.join(format!("proc/irq/{interrupt}/effective_affinity_list")), list).unwrap();
        }
        root
    }

    fn fits(root: &Path, cpus: &[usize]) -> Result<(), String> {
        rss_fits(&root.join("sys"), &root.join("proc"), "eth7", cpus)
    }

    #[test]
    fn rss_needs_a_queue_and_an_interrupt_per_worker() {
        #[allow(clippy::type_complexity, reason = "a table")]
        let cases: &[(&str, usize, &[&str], &[usize], &str)] = &[
            ("fits", 2, &["0-3", "2\n", "3\n"], &[2, 3], ""),
            ("queues", 1, &["0\n"], &[0, 1], "1 receive queues for 2 workers"),
            ("spread", 2, &["0-1\n", "0\n"], &[0, 1], "bound to CPU 1 alone"),
            ("none", 2, &[], &[0, 1], "no interrupts of its own"),
        ];
        for (name, queues, lists, cpus, expected) in cases {
            let root = tree(name, *queues, lists);
            match fits(&root, cpus) {
                Ok(()) => assert_eq!(*expected, "", "{name}"),
                Err(reason) => assert!(!expected.is_empty() && reason.contains(expected), "{name}: {reason}"),
            }
            fs::remove_dir_all(root).unwrap();
        }
    }

    #[test]
    fn rps_is_set_and_restored() {
        let root = tree("rps", 2, &[]);
        let file = root.join("sys/class/net/eth7/queues/rx-1/rps_cpus");
        let rps = Rps::start(&root.join("sys"), "eth7", &[0, 33]).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "00000002,00000001");
        drop(rps);
        assert!(is_same_mask(&fs::read_to_string(&file).unwrap(), "0"));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn rps_of_others_is_left_in_place() {
        let root = tree("foreign", 2, &[]);
        let foreign = root.join("sys/class/net/eth7/queues/rx-0/rps_cpus");
        fs::write(&foreign, "ff\n").unwrap();
        let refused = Rps::start(&root.join("sys"), "eth7", &[0]).err().unwrap();
        assert!(refused.contains("left in place"), "{refused}");
        assert_eq!(fs::read_to_string(&foreign).unwrap(), "ff\n");
        let other = fs::read_to_string(root.join("sys/class/net/eth7/queues/rx-1/rps_cpus")).unwrap();
        assert!(is_same_mask(&other, "0"), "{other}");
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn masks() {
        for (cpus, expected) in [
            (&[0][..], "00000001"),
            (&[0, 1, 31], "80000003"),
            (&[32], "00000001,00000000"),
            (&[65, 0], "00000002,00000000,00000001"),
        ] {
            assert_eq!(mask(cpus), expected);
            assert!(is_same_mask(&mask(cpus), expected.trim_start_matches(['0', ','])));
        }
        assert!(!is_same_mask("3", "1"));
    }
}
