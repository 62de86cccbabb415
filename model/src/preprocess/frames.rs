//! Frames of an animated WebP or GIF. Each is drawn over the one before it, so those up to the last that is wanted are
//! decoded, and no more.

use super::decode::{DecodeError, corrupt, decode, header};
use super::{Image, Mode};
use image::codecs::gif::GifDecoder;
use image::{AnimationDecoder, ImageDecoder, ImageFormat};
use std::io::Cursor;

/// Decodes some frames of a file of at most `max_pixels` pixels each, whole as they are shown. `choose` is told how many
/// frames there are and gives their indices in ascending order; an index may stand there more than once. A still picture has
/// one frame.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode_frames(
    bytes: &[u8],
    max_pixels: u64,
    choose: impl FnOnce(usize) -> Vec<usize>,
) -> Result<Vec<Image>, DecodeError> {
    match header(bytes, max_pixels)? {
        ImageFormat::Gif => {
            let count = gif_frames(bytes)?;
            let mut decoder = GifDecoder::new(Cursor::new(bytes)).map_err(|error| corrupt(&error))?;
            // A frame may claim more than the picture that it is a part of. Held are the picture twice, and the frame.
            let mut limits = image::Limits::no_limits();
            limits.max_alloc = Some(max_pixels.saturating_mul(3 * 4));
            decoder.set_limits(limits).map_err(|error| corrupt(&error))?;
            let frame = |frame: image::ImageResult<image::Frame>| {
                let picture = frame.map_err(|error| corrupt(&error))?.into_buffer();
                let [width, height] = [picture.width(), picture.height()].map(|side| side as usize);
                Ok(Image { width, height, mode: Mode::Rgba, pixels: picture.into_raw() })
            };
            chosen(decoder.into_frames().map(frame), &choose(count))
        }
        ImageFormat::WebP => {
            let mut decoder = image_webp::WebPDecoder::new(Cursor::new(bytes)).map_err(|error| corrupt(&error))?;
            if !decoder.is_animated() {
                return chosen(std::iter::once(decode(bytes, max_pixels)), &choose(1));
            }
            let (count, [width, height]) = (decoder.num_frames(), <[u32; 2]>::from(decoder.dimensions()));
            let mode = if decoder.has_alpha() { Mode::Rgba } else { Mode::Rgb };
            let frames = (0..count).map(|_| {
                let [width, height] = [width, height].map(|side| side as usize);
                let mut pixels = vec![0; width * height * mode.channels()];
                decoder.read_frame(&mut pixels).map_err(|error| corrupt(&error))?;
                Ok(Image { width, height, mode: mode.clone(), pixels })
            });
            chosen(frames, &choose(count as usize))
        }
        _ => chosen(std::iter::once(decode(bytes, max_pixels)), &choose(1)),
    }
}

/// Number of frames of a GIF; nothing is decoded.
fn gif_frames(bytes: &[u8]) -> Result<usize, DecodeError> {
    let mut options = gif::DecodeOptions::new();
    options.skip_frame_decoding(true);
    let mut decoder = options.read_info(Cursor::new(bytes)).map_err(|error| corrupt(&error))?;
    let mut count = 0;
    while decoder.next_frame_info().map_err(|error| corrupt(&error))?.is_some() {
        count += 1;
    }
    Ok(count)
}

/// The frames of these indices, which ascend.
fn chosen(
    frames: impl Iterator<Item = Result<Image, DecodeError>>,
    indices: &[usize],
) -> Result<Vec<Image>, DecodeError> {
    let mut found = Vec::with_capacity(indices.len());
    for (index, frame) in frames.enumerate() {
        if found.len() == indices.len() {
            break;
        }
        let frame = frame?;
        let times = indices[found.len()..].iter().take_while(|&&wanted| wanted == index).count();
        found.extend(std::iter::repeat_n(frame, times));
    }
    match found.len() == indices.len() {
        true => Ok(found),
        false => Err(DecodeError::Corrupt(format!("it ends before frame {}", indices[found.len()]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::codecs::gif::GifEncoder;
    use image::{Delay, Frame, ImageEncoder, RgbaImage};

    const COLOURS: [[u8; 4]; 5] =
        [[250, 0, 0, 255], [0, 250, 0, 255], [0, 0, 250, 255], [9, 9, 9, 255], [200, 200, 0, 255]];

    fn picture(colour: [u8; 4]) -> RgbaImage {
        RgbaImage::from_pixel(6, 4, image::Rgba(colour))
    }

    fn gif() -> Vec<u8> {
        let mut bytes = Vec::new();
        let frame = |&colour: &[u8; 4]| Frame::from_parts(picture(colour), 0, 0, Delay::from_numer_denom_ms(40, 1));
        GifEncoder::new(&mut bytes).encode_frames(COLOURS.iter().map(frame)).unwrap();
        bytes
    }

    /// Still pictures as the frames of an animation: the container around them is written here, for lack of an encoder.
    fn webp() -> Vec<u8> {
        let chunk = |name: &[u8; 4], content: &[u8]| {
            let padding = &[0][..content.len() % 2];
            [&name[..], &(content.len() as u32).to_le_bytes(), content, padding].concat()
        };
        let frame = |&colour: &[u8; 4]| {
            let mut still = Vec::new();
            let encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut still);
            encoder.write_image(&picture(colour), 6, 4, image::ExtendedColorType::Rgba8).unwrap();
            // Place 0, 0; 6 x 4 pixels, one less in the file; 40 ms; in place of what was there.
            let header = [0, 0, 0, 0, 0, 0, 5, 0, 0, 3, 0, 0, 40, 0, 0, 2];
            chunk(b"ANMF", &[&header[..], &still[12..]].concat())
        };
        let extended = chunk(b"VP8X", &[0b0001_0010, 0, 0, 0, 5, 0, 0, 3, 0, 0]);
        let body = [&extended[..], &chunk(b"ANIM", &[0; 6]), &COLOURS.iter().flat_map(frame).collect::<Vec<_>>()];
        chunk(b"RIFF", &[&b"WEBP"[..], &body.concat()].concat())
    }

    #[test]
    fn chosen_frames_are_those_that_are_shown() {
        for (name, bytes) in [("GIF", gif()), ("WebP", webp())] {
            let found = decode_frames(&bytes, 24, |count| {
                assert_eq!(count, COLOURS.len(), "{name}");
                vec![0, 2, 2, 3]
            });
            let first: Vec<Vec<u8>> = found.unwrap().iter().map(|image| image.pixels[..4].to_vec()).collect();
            assert_eq!(first, [0, 2, 2, 3].map(|index| COLOURS[index].to_vec()), "{name}");
            assert!(matches!(decode_frames(&bytes, 23, |_| vec![0]), Err(DecodeError::TooLarge { .. })), "{name}");
        }
    }

    #[test]
    fn what_follows_the_last_chosen_frame_is_not_read() {
        let whole = webp();
        let mut damaged = whole.clone();
        let end = damaged.len();
        damaged[end - 30..].fill(0xff);
        assert!(matches!(decode_frames(&damaged, 24, |_| vec![4]), Err(DecodeError::Corrupt(_))));
        let first = |bytes: &[u8]| decode_frames(bytes, 24, |_| vec![0, 3]).unwrap();
        assert_eq!(first(&damaged), first(&whole));
        assert!(matches!(decode_frames(&gif()[..60], 24, |_| vec![4]), Err(DecodeError::Corrupt(_))));
    }

    #[test]
    fn a_frame_that_claims_more_than_its_picture_takes_no_memory() {
        let mut bytes = gif();
        // The first image descriptor: place, then width and height.
        let at = bytes.windows(9).position(|part| part == [0x2c, 0, 0, 0, 0, 6, 0, 4, 0]).unwrap();
        bytes[at + 5..at + 9].fill(0xff);
        let limit = |error| matches!(error, DecodeError::Corrupt(text) if text.contains("emory"));
        assert!(limit(decode_frames(&bytes, 1 << 20, |_| vec![0]).unwrap_err()));
        assert!(limit(decode(&bytes, 1 << 20).unwrap_err()));
    }

    #[test]
    fn a_still_picture_has_one_frame() {
        let mut bytes = Vec::new();
        let encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut bytes);
        encoder.write_image(&picture(COLOURS[0]), 6, 4, image::ExtendedColorType::Rgba8).unwrap();
        let found = decode_frames(&bytes, 24, |count| vec![0; 2 * count]).unwrap();
        assert_eq!((found.len(), &found[0]), (2, &decode(&bytes, 24).unwrap()));
        assert!(matches!(decode_frames(b"no picture", 24, |_| vec![0]), Err(DecodeError::Unsupported(_))));
    }
}
