//! What several measurements of the same say together.

/// The middle of some values, and where the true middle is with 95 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Middle {
    /// The median; no number where there is no value.
    pub median: f64,
    /// `None` where there are too few to tell: fewer than six.
    pub interval: Option<(f64, f64)>,
}

/// Median and interval of some values.
///
/// The interval is that of order statistics, which asks for no distribution: the true median lies
/// between the k-th smallest and the k-th largest of n values unless fewer than k of them lie on one
/// side of it, and how many do is binomial with p = 1/2.
pub fn middle(values: impl IntoIterator<Item = f64>) -> Middle {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let count = values.len();
    let half = count / 2;
    let median = match (values.get(half), values.get(half.wrapping_sub(1))) {
        (Some(upper), Some(lower)) if count.is_multiple_of(2) => f64::midpoint(*upper, *lower),
        (Some(only), _) => *only,
        (None, _) => f64::NAN,
    };
    let interval = outermost(count).and_then(|rank| {
        Some((
            *values.get(rank - 1)?,
            *values.get(count.checked_sub(rank)?)?,
        ))
    });
    Middle { median, interval }
}

/// The median.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    middle(values).median
}

/// The largest k for which the interval above holds with 95 %: fewer than k on one side are at most
/// 2.5 % likely.
fn outermost(count: usize) -> Option<usize> {
    let n = i32::try_from(count).ok()?;
    let mut likely = 0.5_f64.powi(n);
    let mut total = 0.0;
    let mut rank = 0;
    while rank < count / 2 {
        total += likely;
        if total > 0.025 {
            break;
        }
        let (n, k) = (f64::from(n), rank as f64);
        likely *= (n - k) / (k + 1.0);
        rank += 1;
    }
    (rank > 0).then_some(rank)
}

/// Least squares through points: where the line is at 0, and how it rises. No numbers where all points
/// are above one another.
pub fn line(points: &[(f64, f64)]) -> (f64, f64) {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let squares: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let products: f64 = points
        .iter()
        .map(|point| (point.0 - x) * (point.1 - y))
        .sum();
    let slope = products / squares;
    (y - slope * x, slope)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median([]).is_nan());
    }

    /// The ranks are those of the tables for the sign test.
    #[test]
    fn the_interval_is_that_of_the_sign_test() {
        let ranks = [5, 6, 10, 15, 20, 25].map(outermost);
        assert_eq!(ranks, [None, Some(1), Some(2), Some(4), Some(6), Some(8)]);
        let of = middle((1..=15).map(f64::from));
        assert_eq!((of.median, of.interval), (8.0, Some((4.0, 12.0))));
        assert_eq!(middle([1.0]).interval, None);
    }

    #[test]
    fn a_line_is_found() {
        let (at_zero, slope) = line(&[(1.0, 12.0), (10.0, 30.0), (100.0, 210.0)]);
        assert!((at_zero - 10.0).abs() < 1e-9 && (slope - 2.0).abs() < 1e-9);
        assert!(line(&[(1.0, 1.0), (1.0, 2.0)]).1.is_nan());
    }
}
