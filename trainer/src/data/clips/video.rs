//! Videos of any container, through the `ffmpeg` and `ffprobe` that are found at run time: one counts the frames, one process
//! decodes those that are wanted. Each is ended if it takes too long.

use super::spread;
use crate::data::tools::{Tools, failure};
use crate::data::{Fault, FaultKind};
use model::preprocess::{Image, Mode};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{ChildStdout, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How to get the programs.
const FIX: &str = "install FFmpeg (https://ffmpeg.org, or your system's package ffmpeg), which decodes videos";
/// A process that takes longer is ended.
const LIMIT: Duration = Duration::from_secs(60);
/// Time between looks at whether a process is done.
const LOOK: Duration = Duration::from_millis(2);
/// Most bytes that are kept of what a process complains.
const MOST_ERRORS: u64 = 1 << 16;
/// Longest line in the header of a picture.
const MOST_HEADER: u64 = 64;

/// Decodes videos.
#[derive(Debug)]
pub struct Player {
    tools: Tools,
    limit: Duration,
}

impl Player {
    /// The programs of the user.
    ///
    /// # Errors
    /// One of them is not there; the text says what to install.
    pub fn find(tools: &Tools) -> crate::Result<Player> {
        let player = Player { tools: tools.clone(), limit: LIMIT };
        for program in ["ffmpeg", "ffprobe"] {
            player.tools.command(program, FIX, &[])?;
        }
        Ok(player)
    }

    /// As [`Player::find`], with another limit of time.
    #[cfg(test)]
    pub fn with_limit(tools: &Tools, limit: Duration) -> crate::Result<Player> {
        Ok(Player { limit, ..Player::find(tools)? })
    }

    /// `frames` pictures of a video, evenly spread, of at most `max_pixels` pixels each. Where it ends before its container
    /// says, the last one that is there stands for the rest.
    ///
    /// # Errors
    /// A program fails or takes too long, its pictures are too large, or there is none.
    pub fn frames(&self, path: &Path, frames: usize, max_pixels: u64) -> Result<Vec<Image>, Fault> {
        let corrupt = |detail: &dyn ToString| fault(path, FaultKind::CorruptImage, detail);
        // A name that looks like an option or another protocol is still a file.
        let file = format!("file:{}", path.display());
        let entries = ["-count_packets", "-show_entries", "stream=nb_read_packets", "-of", "csv=p=0"];
        let count = self.run(
            "ffprobe",
            &[&["-v", "error", "-select_streams", "v:0"], &entries[..], &[&file]].concat(),
            path,
            |output| {
                let mut text = String::new();
                output.take(MOST_ERRORS).read_to_string(&mut text).map_err(|error| corrupt(&error))?;
                // Once for the stream, and again for the program that it is in.
                let digits = text.split(|letter: char| !letter.is_ascii_digit()).find(|digits| !digits.is_empty());
                digits
                    .and_then(|digits| digits.parse::<usize>().ok())
                    .filter(|&count| count > 0)
                    .ok_or_else(|| corrupt(&"no video in it"))
            },
        )?;
        let wanted = spread(count, frames);
        let mut distinct = wanted.clone();
        distinct.dedup();
        let terms: Vec<String> = distinct.iter().map(|index| format!("eq(n,{index})")).collect();
        // New times for the chosen ones: by their own, gaps would be filled with copies.
        let filter = format!("select='{}',setpts=N/FRAME_RATE/TB", terms.join("+"));
        let most = distinct.len().to_string();
        let input = ["-v", "error", "-nostdin", "-i", &file, "-map", "0:v:0", "-vf", &filter, "-frames:v", &most];
        let output = ["-f", "image2pipe", "-c:v", "ppm", "pipe:1"];
        let found = self.run("ffmpeg", &[&input[..], &output].concat(), path, |output| {
            let (mut output, mut found) = (BufReader::new(output), Vec::with_capacity(distinct.len()));
            while let Some(image) = portable_pixmap(path, &mut output, max_pixels)? {
                found.push(image);
            }
            Ok(found)
        })?;
        let last = found.len().checked_sub(1).ok_or_else(|| corrupt(&"ffmpeg gave no frame of it"))?;
        let place = |index: &usize| distinct.partition_point(|other| other < index).min(last);
        Ok(wanted.iter().map(|index| found[place(index)].clone()).collect())
    }

    /// Runs a program on a video, `read` beside it.
    fn run<T: Send>(
        &self,
        program: &str,
        arguments: &[&str],
        path: &Path,
        read: impl FnOnce(ChildStdout) -> Result<T, Fault> + Send,
    ) -> Result<T, Fault> {
        let wrong = |detail: &dyn ToString| fault(path, FaultKind::CorruptImage, detail);
        let mut command = self.tools.command(program, FIX, arguments).map_err(|error| wrong(&error))?;
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|error| wrong(&error))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let deadline = Instant::now() + self.limit;
        std::thread::scope(|scope| {
            let output = scope.spawn(|| stdout.map(read).unwrap_or_else(|| Err(wrong(&"it has no output"))));
            let errors = scope.spawn(|| {
                let mut errors = Vec::new();
                // What cannot be read of the complaints is no fault of the video.
                let _ = stderr.map(|stderr| stderr.take(MOST_ERRORS).read_to_end(&mut errors));
                errors
            });
            let status: Option<ExitStatus> = loop {
                if let Some(status) = child.try_wait().map_err(|error| wrong(&error))? {
                    break Some(status);
                }
                if Instant::now() >= deadline {
                    // One that has ended just now needs no end.
                    let _ = child.kill();
                    let _ = child.wait();
                    break None;
                }
                std::thread::sleep(LOOK);
            };
            let output = output.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let errors = errors.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match (output, status) {
                (_, None) => Err(wrong(&format!("{program} was ended after {:.1} s", self.limit.as_secs_f64()))),
                // A reader that has enough closes the pipe, which the program takes for a failure of its own.
                (Err(fault), _) if fault.kind == FaultKind::Oversized => Err(fault),
                (_, Some(status)) if !status.success() => Err(wrong(&failure(program, status, &errors))),
                (output, _) => output,
            }
        })
    }
}

fn fault(path: &Path, kind: FaultKind, detail: &dyn ToString) -> Fault {
    Fault::new(kind, path.display().to_string(), detail.to_string())
}

/// The next picture in the form `P6`, as Netpbm defines it; none at the end.
fn portable_pixmap(path: &Path, input: &mut impl BufRead, max_pixels: u64) -> Result<Option<Image>, Fault> {
    let wrong = |detail: &dyn ToString| fault(path, FaultKind::CorruptImage, detail);
    let mut line = || {
        let mut line = String::new();
        input.by_ref().take(MOST_HEADER).read_line(&mut line).map_err(|error| wrong(&error))?;
        Ok::<String, Fault>(line.trim_end().to_owned())
    };
    let not_read = || wrong(&"ffmpeg's output is no picture in the form P6");
    match line()?.as_str() {
        "" => return Ok(None),
        "P6" => {}
        _ => return Err(not_read()),
    }
    let size = line()?;
    let sides = size.split_once(' ').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    let (width, height): (u32, u32) = sides.ok_or_else(not_read)?;
    if line()? != "255" || width == 0 || height == 0 {
        return Err(not_read());
    }
    if u64::from(width) * u64::from(height) > max_pixels {
        let detail = format!("{width} x {height} pixels, {max_pixels} are allowed");
        return Err(fault(path, FaultKind::Oversized, &detail));
    }
    let mut pixels = vec![0; width as usize * height as usize * 3];
    input.read_exact(&mut pixels).map_err(|error| wrong(&format!("ffmpeg's last picture is not whole: {error}")))?;
    Ok(Some(Image { width: width as usize, height: height as usize, mode: Mode::Rgb, pixels }))
}
