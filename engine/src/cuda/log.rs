//! What the compiler prints: registers, shared memory and spills of each kernel, warnings, and errors with the line of
//! the `.cu` file.

use super::Usage;
use std::collections::BTreeMap;

/// Reads the report of `ptxas -v`: each kernel, and each function that was not inlined, with what it uses.
pub(super) fn usage(log: &str) -> BTreeMap<String, Usage> {
    let mut functions: BTreeMap<String, Usage> = BTreeMap::new();
    let (mut kernel, mut function) = (String::new(), String::new());
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernel = rest.split('\'').next().unwrap_or_default().to_owned();
            functions.entry(kernel.clone()).or_default();
        } else if let Some((_, name)) = line.split_once("Function properties for ") {
            function = name.trim().to_owned();
        } else if let Some(stack) = number_before(line, " bytes stack frame") {
            let usage = functions.entry(function.clone()).or_default();
            let part = |what| number_before(line, what).unwrap_or(0);
            usage.stack_bytes = stack;
            usage.spill_bytes = part(" bytes spill stores") + part(" bytes spill loads");
        } else if let Some(registers) = number_before(line, " registers") {
            let usage = functions.entry(kernel.clone()).or_default();
            usage.registers = registers;
            usage.shared_bytes = number_before(line, " bytes smem").unwrap_or(0);
        }
    }
    functions
}

/// The number right before a text.
fn number_before(line: &str, text: &str) -> Option<u32> {
    let before = line.split_once(text)?.0;
    let digits = before.len() - before.bytes().rev().take_while(u8::is_ascii_digit).count();
    before[digits..].parse().ok()
}

/// Lines in which the assembler says that a kernel will not run as it was written: an instruction that it ignores, or
/// asynchronous products that it makes wait for each other (messages C75xx).
pub(super) fn complaints(log: &str) -> Vec<&str> {
    let complains = |line: &&str| {
        line.starts_with("ptxas")
            && (line.contains("warning") || line.contains("(C75") || line.contains("Performance Loss"))
    };
    log.lines().filter(complains).collect()
}

/// Warnings of the compiler's front end, with the file and line that they are about.
pub(super) fn warnings(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.contains("): warning ")).collect()
}

/// The lines of PTX that the assembler refuses.
pub(super) fn refused_lines(log: &str) -> Vec<usize> {
    let number = |line: &str| line.strip_prefix("ptxas")?.split_once("line ")?.1.split(';').next()?.parse().ok();
    log.lines().filter_map(number).collect()
}

/// File and line of the `.cu` source that a line of PTX (from 1) was made from, by the `.loc` before it.
pub(super) fn source_of(ptx: &str, line: usize) -> Option<(&str, usize)> {
    let words = |text: &'static str| ptx.lines().map(str::trim).filter_map(move |line| line.strip_prefix(text));
    let place = ptx.lines().take(line).map(str::trim).filter_map(|line| line.strip_prefix(".loc")).last()?;
    let mut numbers = place.split_ascii_whitespace();
    let (file, line) = (numbers.next()?, numbers.next()?.parse().ok()?);
    let name =
        words(".file").find_map(|rest| rest.trim().strip_prefix(file)?.trim().strip_prefix('"')?.strip_suffix('"'))?;
    Some((name, line))
}

/// The PTX with the names of `.file` as the source gave them: the compiler prepends the current folder.
pub(super) fn with_given_names(ptx: &str) -> String {
    let Ok(folder) = std::env::current_dir() else { return ptx.to_owned() };
    let prefix = format!("\"{}/", folder.display());
    let mut text = String::with_capacity(ptx.len());
    for line in ptx.split_inclusive('\n') {
        if line.trim_start().starts_with(".file") {
            text += &line.replacen(&prefix, "\"", 1);
        } else {
            text += line;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "fill.cu(2): warning #177-D: variable \"unused\" was declared but never referenced\n\
        ptxas info    : 4 bytes gmem\n\
        ptxas info    : Compiling entry function 'second' for 'sm_90a'\n\
        ptxas info    : Function properties for second\n\
        ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
        ptxas info    : Used 8 registers, used 0 barriers\n\
        ptxas info    : Compile time = 9.801 ms\n\
        ptxas info    : Compiling entry function 'fill' for 'sm_90a'\n\
        ptxas info    : Function properties for fill\n    \
        256 bytes stack frame, 36 bytes spill stores, 40 bytes spill loads\n\
        ptxas info    : Used 32 registers, used 1 barriers, 256 bytes cumulative stack size, 512 bytes smem\n\
        ptxas info    : Function properties for _Z6helperf\n\
        ptxas         .     16 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads\n";

    #[test]
    fn the_report_of_every_function_is_read() {
        let expected = [
            ("_Z6helperf", Usage { registers: 0, shared_bytes: 0, stack_bytes: 16, spill_bytes: 8 }),
            ("fill", Usage { registers: 32, shared_bytes: 512, stack_bytes: 256, spill_bytes: 76 }),
            ("second", Usage { registers: 8, shared_bytes: 0, stack_bytes: 0, spill_bytes: 0 }),
        ];
        assert_eq!(usage(LOG), expected.map(|(name, usage)| (name.to_owned(), usage)).into());
        assert!(usage("").is_empty());
    }

    #[test]
    fn complaints_of_the_assembler_are_told_from_its_report() {
        assert!(complaints(LOG).is_empty());
        let ignored = "ptxas warning : (C7508) setmaxnreg ignored to maintain minimum register requirement.";
        let serialized = "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized \
                          due to insufficient register resources in function 'gemm'";
        let log = format!("{LOG}{ignored}\n{serialized}\n");
        assert_eq!(complaints(&log), [ignored, serialized]);
        assert_eq!(
            warnings(&log),
            ["fill.cu(2): warning #177-D: variable \"unused\" was declared but never referenced"]
        );
    }

    #[test]
    fn a_refused_line_leads_to_the_source() {
        let log = "ptxas application ptx input, line 6; error   : Unknown modifier '.bar'\nptxas fatal   : aborted\n";
        assert_eq!(refused_lines(log), [6]);
        let ptx = "{\n\t.loc\t1 7 0\n\tmov;\n\t.loc\t2 31 3\n\t// begin inline asm\n\tfoo.bar;\n\t.loc\t1 9 1\n}\n\
                   \t.file\t1 \"prelude.cuh\"\n\t.file\t2 \"fill.cu\"\n";
        assert_eq!(source_of(ptx, 6), Some(("fill.cu", 31)));
        assert_eq!(source_of(ptx, 3), Some(("prelude.cuh", 7)));
        assert_eq!(source_of(ptx, 1), None);
    }

    #[test]
    fn the_current_folder_is_taken_off_file_names() {
        let folder = std::env::current_dir().unwrap();
        let ptx = format!("mov;\n\t.file\t1 \"{0}/fill.cu\"\n// {0}/\n", folder.display());
        assert_eq!(with_given_names(&ptx), format!("mov;\n\t.file\t1 \"fill.cu\"\n// {}/\n", folder.display()));
    }
}
