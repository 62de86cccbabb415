//! Figures as text.

/// Rows under a header: the first column to the left, the others to the right.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = header.iter().map(|name| (*name).to_owned()).collect();
    let width = |column: usize| {
        let cells = std::iter::once(&header).chain(rows).map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cell = |(column, (cell, width)): (usize, (&String, &usize))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("  {cell:>width$}"),
        };
        row.iter().zip(&widths).enumerate().map(cell).collect::<String>().trim_end().to_owned() + "\n"
    };
    std::iter::once(&header).chain(rows).map(line).collect()
}

/// A share of 1 in percent.
pub fn percent(share: f64) -> String {
    format!("{:.2}", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = table(
            &["set", "images", "top-1 %"],
            &[row(["caf\u{e9}s", "7", "1.00"]), row(["  a part", "12345678", ""])],
        );
        assert_eq!(text, "set         images  top-1 %\ncaf\u{e9}s            7     1.00\n  a part  12345678\n");
        assert_eq!(percent(0.12345), "12.35");
    }
}
