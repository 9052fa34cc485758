//! The whole product from outside: the real binary, its routes, the page in Chromium, and the same numbers on
//! every executor. One binary, one module a topic.

mod adapters;
mod control;
mod damage;
mod endurance;
mod experiment;
mod gguf;
mod lent;
mod loading;
mod operator;
mod page;
mod parity;
mod recovery;
mod replicas;
mod smollm2;
mod steering;
mod storage;
mod threads;
mod trained;
mod trouble;
mod wgsl;
