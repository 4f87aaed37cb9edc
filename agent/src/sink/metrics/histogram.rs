//! Histograms with fixed bounds, and the bounds of ours.

/// Powers of four from 16 B to 16 MiB.
pub(super) const SIZES: &[f64] = &[
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];

/// Of handshakes and pings: from within a host to a client that has all but given up.
pub(super) const LATENCIES: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// Of connections: 100 ms to a day, with the time-outs that proxies like in between.
pub(super) const LIFETIMES: &[f64] = &[
    0.1, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14_400.0,
    43_200.0, 86_400.0,
];

/// Of the silence before an ending: the time-outs that proxies, load balancers and servers come with (30 s,
/// 60 s, 100 s, 4 min, 5 min, 350 s, 10 min, an hour), each in a bucket of its own that few others fall
/// into. A timer fires at its time or a little later, never before. Those that queries name are no whole
/// numbers, which Prometheus 3 writes otherwise in its label `le` than we do.
pub(super) const SILENCES: &[f64] = &[
    1.0, 10.0, 29.5, 31.5, 59.5, 62.5, 99.5, 103.5, 239.5, 245.5, 299.5, 305.5, 349.5, 355.5,
    599.5, 611.5, 3599.5, 3659.5,
];

/// Observations in buckets. Takes memory for them only once there is one.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    bounds: &'static [f64],
    /// Not cumulative; the last is what exceeds every bound.
    buckets: Vec<u64>,
    sum: f64,
    count: u64,
}

impl Histogram {
    /// One without observations; `bounds` ascend.
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            buckets: Vec::new(),
            sum: 0.0,
            count: 0,
        }
    }

    /// Counts a value into the first bucket whose bound it does not exceed.
    pub(super) fn observe(&mut self, value: f64) {
        if self.buckets.is_empty() {
            self.buckets = vec![0; self.bounds.len() + 1];
        }
        let bucket = self.bounds.partition_point(|&bound| bound < value);
        if let Some(n) = self.buckets.get_mut(bucket) {
            *n += 1;
        }
        self.sum += value;
        self.count += 1;
    }

    /// Adds observations that were sorted by the same bounds, and their sum.
    pub(super) fn add(&mut self, buckets: &[u64], sum: u64) {
        debug_assert_eq!(self.bounds.len() + 1, buckets.len());
        let count = buckets.iter().fold(0u64, |sum, n| sum.saturating_add(*n));
        if count == 0 {
            return;
        }
        if self.buckets.is_empty() {
            self.buckets = vec![0; self.bounds.len() + 1];
        }
        for (n, more) in self.buckets.iter_mut().zip(buckets) {
            *n += more;
        }
        self.sum += sum as f64;
        self.count += count;
    }

    /// Adds another's observations; the bounds are the same.
    pub(super) fn absorb(&mut self, other: &Self) {
        debug_assert_eq!(self.bounds, other.bounds);
        if self.buckets.is_empty() {
            self.buckets.clone_from(&other.buckets);
        } else {
            for (n, more) in self.buckets.iter_mut().zip(&other.buckets) {
                *n += more;
            }
        }
        self.sum += other.sum;
        self.count += other.count;
    }

    /// How many were observed.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Their sum.
    pub(super) fn sum(&self) -> f64 {
        self.sum
    }

    /// Upper bounds, infinity last, each with the number of observations up to it.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        bounds.zip(&self.buckets).scan(0, |sum, (bound, n)| {
            *sum += n;
            Some((bound, *sum))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_ascend_and_are_as_promised() {
        for bounds in [SIZES, LATENCIES, LIFETIMES, SILENCES] {
            assert!(bounds.is_sorted());
        }
        assert!(SIZES.windows(2).all(|pair| pair[1] == pair[0] * 4.0));
        assert_eq!(
            (SIZES.first(), SIZES.last()),
            (Some(&16.0), Some(&f64::from(16 << 20)))
        );
        assert_eq!(LIFETIMES.first(), Some(&0.1));
        assert_eq!(LIFETIMES.last(), Some(&86_400.0));
    }

    #[test]
    fn each_time_out_has_a_bucket_of_its_own() {
        let bucket = |value: f64| SILENCES.partition_point(|&bound| bound < value);
        let timeouts = [30.0, 60.0, 100.0, 240.0, 300.0, 350.0, 600.0, 3600.0];
        for timeout in timeouts {
            // Punctual, a second late, and late by 1 %.
            assert_eq!(bucket(timeout), bucket(timeout + 1.0), "{timeout}");
            assert_eq!(bucket(timeout), bucket(timeout * 1.01), "{timeout}");
            // What comes 2 % early, or 4 % late, is not of it.
            assert_ne!(bucket(timeout), bucket(timeout * 0.98), "{timeout}");
            assert_ne!(bucket(timeout), bucket(timeout * 1.07), "{timeout}");
        }
        let buckets: std::collections::BTreeSet<_> = timeouts.map(bucket).into();
        assert_eq!(buckets.len(), timeouts.len());
    }

    #[test]
    fn a_value_on_a_bound_is_within_it() {
        let mut sizes = Histogram::new(SIZES);
        sizes.observe(16.0);
        sizes.observe(17.0);
        sizes.observe(1e300);
        let counts: Vec<_> = sizes.cumulative().map(|(_, n)| n).collect();
        assert_eq!(counts, [1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3]);
    }

    #[test]
    fn absorbing_adds() {
        let mut a = Histogram::new(SIZES);
        let mut b = Histogram::new(SIZES);
        b.observe(1.0);
        a.absorb(&b);
        a.absorb(&b);
        assert_eq!((a.count(), a.sum()), (2, 2.0));
        assert_eq!(a.cumulative().last(), Some((f64::INFINITY, 2)));
    }
}
