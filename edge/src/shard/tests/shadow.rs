//! What the miniatures estimate from a sample, beside what stores of those sizes really do.

use super::*;
use crate::shard::Seen;
use crate::shard::set;
use crate::shard::shadow::{Original, Sampler, Shadow};

/// Segments of the store of the present size.
const SEGMENTS: usize = 64;
const REQUESTS: u32 = 40_000;
/// Estimates differ from real stores by at most this much, with the numbers of keys below; a larger sample errs less.
const ERROR_MAX: f64 = 0.03;
const NOW_S: u32 = 1_000;
const FOREVER: u32 = u32::MAX;

fn original(segments: usize) -> Original {
    let geometry = layout::Geometry::new(SEGMENT, segments);
    let capacity = (segments * geometry.records_bytes()) as u64;
    Original { capacity, segments: segments as u64, entries: (segments * SEGMENT / 512) as u64 }
}

fn sampled(share: f64) -> (Shadow, Sampler) {
    let (shadow, mut samplers) = Shadow::sampling(original(SEGMENTS), 1, share);
    (shadow, samplers.remove(0))
}

/// A request whose popularity falls with the square of its number; every sixth never comes again.
fn request(dice: &mut Dice, number: u32) -> Object {
    let rank = dice.roll(6_000) * dice.roll(6_000) / 6_000;
    let key = if dice.roll(6) == 0 { 1_000_000 + number } else { rank as u32 };
    Object { body_bytes: 700 + key as usize * 37 % 3_000, ..Object::small(key, 1) }
}

fn store(writer: &mut set::Writer, object: &Object) {
    let (key, meta, head) = (key(object.key), object.meta(), object.head());
    let body = [Bytes::from(vec![0; object.body_bytes])];
    let label = Label::new(hash(object.key), &key, &meta, &head);
    writer.put(&label, Body::Whole(&body), |_| false).unwrap();
}

/// The hit ratio of a real store of so many segments.
fn real(segments: usize) -> f64 {
    let scratch = Scratch::new(&format!("shadow-{segments}"));
    let options = Options { object_bytes: 512, ..options(&scratch, segments) };
    let (mut writer, readers, _) = set::open(&[options], |_| SEGMENT).unwrap();
    let (mut dice, mut hits) = (Dice::new(5), 0);
    for number in 0..REQUESTS {
        let object = request(&mut dice, number);
        let (hash, key) = (hash(object.key), key(object.key));
        match readers[0].lookup(hash, &key, |_| true) {
            Some(_) => hits += 1,
            None => {
                store(&mut writer, &object);
            }
        }
    }
    f64::from(hits) / f64::from(REQUESTS)
}

#[test]
fn estimates_for_half_and_double_the_size_are_what_stores_of_those_sizes_do() {
    let scratch = Scratch::new("shadow-present");
    let options = Options { object_bytes: 512, ..options(&scratch, SEGMENTS) };
    let (mut writer, readers, _) = set::open(&[options], |_| SEGMENT).unwrap();
    let (reader, mut dice) = (&readers[0], Dice::new(5));
    let (mut hits, mut lookups) = (0, 0);
    for number in 0..REQUESTS {
        let object = request(&mut dice, number);
        let (hash, key) = (hash(object.key), key(object.key));
        let found = reader.lookup(hash, &key, |_| true);
        lookups += 1;
        hits += u64::from(found.is_some());
        if reader.is_sampled(hash) {
            let stored = |found: &Pinned| Seen::Stored { bytes: found.stored_bytes(), until_s: FOREVER };
            reader.sample(hash, found.as_ref().map_or(Seen::Nothing, stored));
        }
        if found.is_none() {
            drop(found);
            store(&mut writer, &object);
        }
        if number % 500 == 0 {
            writer.replay(lookups, hits);
        }
    }
    writer.replay(lookups, hits);
    let estimates = writer.estimates();
    assert!(estimates.sampled_share < 0.1 && estimates.samples > 1_000, "{estimates:?}");
    assert_eq!(estimates.lost, 0);
    for (estimate, segments) in estimates.sizes.iter().zip([SEGMENTS / 2, SEGMENTS, 2 * SEGMENTS]) {
        let (estimated, real) = (estimate.hit_ratio.unwrap(), real(segments));
        println!("{} × the size: {estimated:.4} estimated, {real:.4} real", estimate.factor);
        assert!((estimated - real).abs() < ERROR_MAX, "{estimated:.4}, really {real:.4}: {estimates:?}");
    }
    let [half, present, double] = estimates.sizes.map(|size| size.hit_ratio.unwrap());
    assert!(half + 0.03 < present && present + 0.03 < double, "sizes that matter: {estimates:?}");
}

#[test]
fn a_popular_key_in_the_sample_or_not_changes_little() {
    // Half of all requests are for one key, which is in the sample or is not: the hit ratio is the same.
    let estimate = |popular: u64| {
        let (mut shadow, sampler) = sampled(0.25);
        let mut dice = Dice::new(9);
        let (mut hits, mut lookups) = (0, 0);
        for number in 0..40_000_u64 {
            let is_popular = number % 2 == 0;
            let key = dice.roll(3_000);
            let hash = if is_popular { popular } else { xxh3_64(&key.to_le_bytes()) };
            // The store has the popular one and a third of the others.
            let has = is_popular || key < 1_000;
            lookups += 1;
            hits += u64::from(has);
            if sampler.wants(hash) {
                let seen = if has { Seen::Stored { bytes: 900, until_s: FOREVER } } else { Seen::Nothing };
                sampler.add(hash, seen);
            }
            shadow.replay(lookups, hits, NOW_S);
        }
        shadow.estimates().sizes.map(|size| size.hit_ratio.unwrap())
    };
    let (with, without) = (estimate(1), estimate(u64::MAX));
    let real = 0.5 + 0.5 / 3.0;
    for (with, without) in with.into_iter().zip(without) {
        assert!((with - real).abs() < 0.02 && (without - real).abs() < 0.02, "{with} {without} {real}");
    }
}

#[test]
fn what_is_stale_or_purged_is_no_hit_at_any_size() {
    let (mut shadow, sampler) = sampled(1.0);
    let misses = |shadow: &mut Shadow, sampler: &Sampler, hash, seen, now_s| {
        let before = shadow.misses();
        sampler.add(hash, seen);
        shadow.replay(0, 0, now_s);
        let after = shadow.misses();
        std::array::from_fn::<_, 3, _>(|i| after[i] - before[i])
    };
    assert_eq!(misses(&mut shadow, &sampler, 7, Seen::Nothing, 10), [1, 1, 1]);
    shadow.stored(7, 500, 20, 10);
    // The store has lost it; the miniatures have it, as long as it is fresh.
    assert_eq!(misses(&mut shadow, &sampler, 7, Seen::Nothing, 19), [0, 0, 0]);
    assert_eq!(misses(&mut shadow, &sampler, 7, Seen::Nothing, 20), [1, 1, 1]);
    let stored = |until_s| Seen::Stored { bytes: 500, until_s };
    assert_eq!(misses(&mut shadow, &sampler, 7, stored(20), 20), [1, 1, 1]);
    assert_eq!(misses(&mut shadow, &sampler, 7, stored(30), 20), [0, 0, 0], "it was validated");
    assert_eq!(
        misses(&mut shadow, &sampler, 8, stored(30), 20),
        [1, 1, 1],
        "stored before there were miniatures"
    );
    assert_eq!(misses(&mut shadow, &sampler, 8, stored(30), 20), [0, 0, 0]);
    assert_eq!(misses(&mut shadow, &sampler, 8, Seen::Purged, 20), [1, 1, 1]);
    assert_eq!(misses(&mut shadow, &sampler, 8, Seen::Nothing, 20), [1, 1, 1]);
    shadow.removed(7, 20);
    assert_eq!(misses(&mut shadow, &sampler, 7, Seen::Nothing, 20), [1, 1, 1]);
    // What no miniature could hold is not judged.
    assert_eq!(misses(&mut shadow, &sampler, 9, Seen::Stored { bytes: 1 << 40, until_s: 30 }, 20), [0, 0, 0]);
}

#[test]
fn a_full_queue_loses_samples_and_says_so_and_old_ones_count_less() {
    let (mut shadow, sampler) = sampled(1.0);
    let queued = crate::limits::SHADOW_SAMPLES_QUEUED_MAX as u64;
    for _ in 0..queued + 5 {
        sampler.add(1, Seen::Nothing);
    }
    shadow.replay(queued + 5, 0, NOW_S);
    let estimates = shadow.estimates();
    assert_eq!((estimates.lost, estimates.samples, estimates.samples_all), (5, queued, queued));
    let mut all = queued;
    while all < 2 * crate::limits::SHADOW_WINDOW_SAMPLES {
        (0..queued).for_each(|_| sampler.add(1, Seen::Stored { bytes: 100, until_s: FOREVER }));
        all += queued;
        shadow.replay(all, all - queued, NOW_S);
    }
    let estimates = shadow.estimates();
    assert!(estimates.samples < crate::limits::SHADOW_WINDOW_SAMPLES && estimates.samples_all == all);
    assert!(estimates.sizes[1].hit_ratio.unwrap() > 0.99, "{estimates:?}");
}
