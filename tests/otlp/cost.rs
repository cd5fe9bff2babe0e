//! What a push costs: no allocation in the steady state, whatever is on the node.

#![allow(unsafe_code)] // a counting allocator cannot be written without

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Instant;

use wattribute::config::{self, ProcessExport};
use wattribute::export::otlp::Encoder;

use crate::arithmetic::{node, processes};
use crate::world::{World, package};

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: hands everything on to the system's allocator and only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// 1,000 containers in pods with 4 zones, and processes in them.
fn node_of_a_thousand(processes: u32) -> World {
    let mut world = World::new((0..4).map(|z| package(&format!("rapl:package-{z}"))).collect());
    for n in 0..1000u32 {
        let container = world.container(&format!("{n:064x}"), 0);
        for z in 0..4 {
            world.spend_unseen(container, z, 1_000_000 + u64::from(n));
        }
        for m in 0..processes {
            let process = world.process(1000 + n * processes + m, "worker", container);
            world.spend(process, 0, u64::from(n + m));
        }
    }
    world
}

fn measure(name: &str, settings: &config::Otlp, export: ProcessExport, world: &mut World) -> u64 {
    let mut encoder = Encoder::new(settings, &processes(export, 100), &node());
    let mut steady = u64::MAX;
    let mut fastest = u128::MAX;
    let mut bytes = 0;
    let mut packed = 0;
    for turn in 0..20u64 {
        for row in 1..world.snapshot.workloads.len() {
            world.spend(row, (turn % 4) as usize, 1000 + row as u64);
        }
        let snapshot = world.tick(15);
        let before = COUNT.with(Cell::get);
        let begin = Instant::now();
        let request = encoder.encode(&snapshot);
        fastest = fastest.min(begin.elapsed().as_micros());
        let allocations = COUNT.with(Cell::get) - before;
        (bytes, packed) = (request.len(), zstd::bulk::compress(request, 1).unwrap().len());
        let before = COUNT.with(Cell::get);
        encoder.acknowledge();
        steady = steady.min(allocations + COUNT.with(Cell::get) - before);
    }
    println!("{name}: {bytes} bytes ({packed} by zstd), {steady} allocations, {fastest} µs");
    steady
}

#[test]
fn a_steady_node_is_encoded_without_an_allocation() {
    let settings = config::Otlp::default();
    let bare = config::Otlp { point_names: false, ..config::Otlp::default() };
    let delta = config::Otlp { temporality: config::Temporality::Delta, ..config::Otlp::default() };
    let mut world = node_of_a_thousand(0);
    assert_eq!(measure("1,000 containers × 4 zones", &settings, ProcessExport::Off, &mut world), 0);
    assert_eq!(measure("… without point names", &bare, ProcessExport::Off, &mut world), 0);
    assert_eq!(measure("… as increments", &delta, ProcessExport::Off, &mut world), 0);
    let mut world = node_of_a_thousand(10);
    assert_eq!(measure("… with 10,000 processes, the top 100", &settings, ProcessExport::Top, &mut world), 0);
    assert_eq!(measure("… with 10,000 processes, all", &settings, ProcessExport::All, &mut world), 0);
}
