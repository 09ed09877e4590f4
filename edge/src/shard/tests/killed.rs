//! A process is killed while it stores; what it leaves is opened and compared with a store that was not killed.

use super::*;
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

const CHILD: &str = "EDGE_TEST_STORE_TO_BE_KILLED";
const TEST: &str = "shard::tests::killed::nothing_is_lost_or_torn_by_kill_9";
const KEYS: u32 = 80;
const VARIANTS: u64 = 2;

/// Step number `step`: the same in every process.
fn act(writer: &mut Writer, step: u32) {
    let mut dice = Dice::new(step.into());
    let number = dice.roll(KEYS as usize) as u32;
    if dice.roll(6) == 0 {
        writer.remove(hash(number), &key(number));
        return;
    }
    let (body_bytes, chunk_bytes) =
        if dice.roll(5) == 0 { (dice.roll(40_000), 9_000) } else { (dice.roll(4_000), 0) };
    let variant = dice.roll(VARIANTS as usize) as u64;
    let object = Object { key: number, variant, version: step.into(), body_bytes, chunk_bytes };
    object.put(writer).unwrap();
}

fn child(scratch: &str) {
    let options = Options { path: scratch.into(), size_bytes: (8 * SEGMENT) as u64, ..Options::default() };
    let (mut writer, ..) = open(&options);
    let done = std::fs::File::create(options.path.join("steps")).unwrap();
    for step in 1.. {
        act(&mut writer, step);
        done.write_all_at(&step.to_le_bytes(), 0).unwrap();
    }
}

fn steps_done(scratch: &Scratch) -> u32 {
    let bytes = std::fs::read(scratch.path().join("steps")).unwrap_or_default();
    bytes.try_into().map_or(0, u32::from_le_bytes)
}

/// What a store that was not killed serves after so many steps. It is not read before, for that has a say in what leaves.
fn after_steps(steps: u32) -> BTreeSet<Object> {
    let scratch = Scratch::new("not-killed");
    let (mut writer, readers, _) = open(&options(&scratch, 8));
    (1..=steps).for_each(|step| act(&mut writer, step));
    all_served(&readers[0], KEYS, VARIANTS).into_iter().collect()
}

#[test]
fn nothing_is_lost_or_torn_by_kill_9() {
    if let Ok(scratch) = std::env::var(CHILD) {
        child(&scratch);
    }
    for round in 0..6 {
        let scratch = Scratch::new("killed");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([TEST, "--exact"])
            .env(CHILD, scratch.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Killed at a different step each time; the wait is bounded, a child that does nothing fails the test.
        let enough = 300 + 61 * round;
        for _ in 0..20_000 {
            if steps_done(&scratch) >= enough {
                break;
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let steps = steps_done(&scratch);
        assert!(steps >= enough, "the child did {steps} steps");

        let (_writer, readers, opened) = open(&options(&scratch, 8));
        assert!(!opened.clean && opened.objects > 20, "{opened:?}");
        let left: BTreeSet<Object> = all_served(&readers[0], KEYS, VARIANTS).into_iter().collect();
        assert_eq!(left.len() as u64, opened.objects);
        // The step under way when it died may have happened, or not, or in part.
        let (before, after) = (after_steps(steps), after_steps(steps + 1));
        let lost: Vec<_> = before.intersection(&after).filter(|object| !left.contains(object)).collect();
        let extra: Vec<_> = left.iter().filter(|o| !before.contains(o) && !after.contains(o)).collect();
        assert!(lost.is_empty() && extra.is_empty(), "after {steps} steps: lost {lost:?}, extra {extra:?}");
    }
}
