use super::*;
use crate::decode::decode;

#[test]
fn samples() {
    let at = |raw| disasm(&decode(raw).expect("valid"), 0x1000);
    assert_eq!(at(0xfe00_0ee3), "beq\tzero,zero,0xffc");
    assert_eq!(at(0xfea4_3c23), "sd\ta0,-8(s0)");
    assert_eq!(at(0x1141), "c.addi\tsp,-16");
    assert_eq!(at(0x0330_000f), "fence\trw,rw");
    assert_eq!(at(0x3052_9073), "csrrw\tzero,mtvec,t0");
    assert_eq!(at(0x0000_0073), "ecall");
}
