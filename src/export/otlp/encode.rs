//! The wire format of OTLP metrics, written by hand: one `ResourceMetrics` as bytes that stay, in which each push only
//! overwrites times and values.
//!
//! An `ExportMetricsServiceRequest` is nothing but `repeated ResourceMetrics resource_metrics = 1`, so a request is a
//! concatenation of such fields and may be cut between any two. Times (`fixed64`) and values (`double`) have a fixed
//! width; so as long as a resource keeps its series, its length does not change and no length has to be written again.
//! Field numbers are those of opentelemetry-proto 1.x `metrics/v1/metrics.proto`.

use crate::semconv::{Instrument, Metric};

/// `NumberDataPoint.flags`: the series has ended.
const NO_RECORDED_VALUE: u8 = 1;

const FIXED64: u32 = 1;
const LEN: u32 = 2;

/// How counters are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Totals.
    Cumulative,
    /// Increments.
    Delta,
}

/// Writes protobuf into a kept buffer and remembers where the numbers of each point are.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
}

/// The numbers of one point: `start` (counters only), `time`, `value`, in this order, each behind its tag byte.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    at: u32,
    /// Which series of the resource this is.
    pub series: u32,
    /// A gauge has no start.
    pub gauge: bool,
}

/// What a point says at this push.
#[derive(Debug, Clone, Copy, Default)]
pub struct Numbers {
    /// Start of the series or of the interval, in ns since 1970.
    pub start: u64,
    /// Time of the point.
    pub time: u64,
    /// Value; none for a point that was written as ended.
    pub value: Option<f64>,
}

impl Slot {
    /// Overwrites the numbers of this point in `bytes`.
    pub fn patch(self, bytes: &mut [u8], numbers: Numbers) {
        let start = (!self.gauge).then_some(numbers.start.to_le_bytes());
        let value = numbers.value.map(f64::to_le_bytes);
        let words = [start, Some(numbers.time.to_le_bytes()), value];
        let mut at = self.at as usize;
        for word in words.iter().flatten() {
            if let Some(place) = bytes.get_mut(at + 1..at + 9) {
                place.copy_from_slice(word);
            }
            at += 9;
        }
    }
}

impl Writer {
    /// Forgets what was written and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.slots.clear();
    }

    /// What was written.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where the numbers are.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// A field that holds a message, whose length is known only when it is written.
    pub fn message(&mut self, field: u32, write: impl FnOnce(&mut Self)) {
        let (start, first_slot) = (self.bytes.len(), self.slots.len());
        write(self);
        let end = self.bytes.len();
        self.varint(u64::from(field << 3 | LEN));
        self.varint((end - start) as u64);
        let header = self.bytes.len() - end;
        self.bytes[start..].rotate_right(header);
        for slot in &mut self.slots[first_slot..] {
            slot.at += u32::try_from(header).unwrap_or(0);
        }
    }

    /// A string field.
    pub fn string(&mut self, field: u32, text: &str) {
        self.varint(u64::from(field << 3 | LEN));
        self.varint(text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// A `KeyValue` with a string value, as field `field`.
    pub fn attribute(&mut self, field: u32, key: &str, value: &str) {
        self.message(field, |pair| {
            pair.string(1, key);
            pair.message(2, |any| any.string(1, value));
        });
    }

    /// A `KeyValue` with a whole number, as field `field`.
    pub fn attribute_int(&mut self, field: u32, key: &str, value: u64) {
        self.message(field, |pair| {
            pair.string(1, key);
            pair.message(2, |any| any.uint(3, value));
        });
    }

    /// A `KeyValue` with a list of one string, as field `field`.
    pub fn attribute_list(&mut self, field: u32, key: &str, value: &str) {
        self.message(field, |pair| {
            pair.string(1, key);
            pair.message(2, |any| any.message(5, |list| list.message(1, |item| item.string(1, value))));
        });
    }

    /// Bytes that were encoded before.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// One `Metric` with the points that `points` writes.
    pub fn metric(&mut self, metric: &Metric, form: Form, points: impl FnOnce(&mut Self)) {
        self.message(2, |out| {
            out.string(1, metric.name);
            out.string(2, metric.help);
            out.string(3, metric.unit);
            match metric.instrument {
                Instrument::Gauge => out.message(5, points),
                Instrument::Counter => out.message(7, |sum| {
                    points(sum);
                    sum.uint(2, if form == Form::Cumulative { 2 } else { 1 });
                    sum.uint(3, 1);
                }),
            }
        });
    }

    /// One `NumberDataPoint` of series number `series`, with the attributes that `attributes` writes (as field 7).
    pub fn point(&mut self, series: u32, gauge: bool, ended: bool, attributes: impl FnOnce(&mut Self)) {
        self.message(1, |out| {
            attributes(out);
            out.slots.push(Slot { at: u32::try_from(out.bytes.len()).unwrap_or(0), series, gauge });
            if !gauge {
                out.fixed(2);
            }
            out.fixed(3);
            if ended {
                out.uint(8, u64::from(NO_RECORDED_VALUE));
            } else {
                out.fixed(4);
            }
        });
    }

    fn fixed(&mut self, field: u32) {
        self.varint(u64::from(field << 3 | FIXED64));
        self.bytes.extend_from_slice(&[0; 8]);
    }

    fn uint(&mut self, field: u32, value: u64) {
        self.varint(u64::from(field << 3));
        self.varint(value);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push((value & 0x7f) as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_several_bytes_move_the_slots_with_them() {
        let mut writer = Writer::default();
        let long = "x".repeat(300);
        writer.message(1, |out| {
            out.string(1, &long);
            out.point(7, false, false, |point| point.attribute(7, "key", &long));
        });
        let slot = writer.slots()[0];
        let mut bytes = writer.bytes().to_vec();
        slot.patch(&mut bytes, Numbers { start: 1, time: 2, value: Some(3.0) });
        let tail = &bytes[bytes.len() - 27..];
        assert_eq!(tail[0], 0x11, "start_time_unix_nano, fixed64");
        assert_eq!(tail[1..9], 1u64.to_le_bytes());
        assert_eq!(tail[9], 0x19, "time_unix_nano, fixed64");
        assert_eq!(tail[10..18], 2u64.to_le_bytes());
        assert_eq!(tail[18], 0x21, "as_double");
        assert_eq!(tail[19..27], 3.0f64.to_le_bytes());
        assert_eq!(slot.series, 7);
    }
}
