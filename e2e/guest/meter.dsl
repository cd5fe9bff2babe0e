// The ACPI power meter of the guest (ACPI 6.5, 10.4): the whole machine draws 230 W and 232 W by turns, since a power
// that never changes is that of a frozen sensor. The driver asks _PMC once for what the meter can do, _PMM for
// milliwatts, and _PMD for the devices that it covers.
DefinitionBlock ("", "SSDT", 2, "WATTRB", "METER", 1)
{
    Scope (\_SB)
    {
        Device (PWR0)
        {
            Name (_HID, "ACPI000D")
            Name (_UID, Zero)
            Name (AVGI, 1000)
            Name (TURN, Zero)
            Method (_STA) { Return (0x0F) }
            Method (_PMC)
            {
                Return (Package (14)
                {
                    1,          // it measures; no trip points, no limit
                    0,          // in mW
                    0,          // what goes in
                    95000,      // accurate to 95 %
                    1000,       // a sample each second
                    1000,       // shortest averaging interval in ms
                    60000,      // longest
                    0xFFFFFFFF, // no hysteresis
                    0,          // no limit to set
                    0, 0,       // its range
                    "PM1", "0001", ""
                })
            }
            Method (_PMM, 0, Serialized)
            {
                TURN ^= One
                Return (230000 + (TURN * 2000))
            }
            Method (_PAI, 1) { AVGI = Arg0 Return (Zero) }
            Method (_GAI) { Return (AVGI) }
            Method (_PMD) { Return (Package (1) { \_SB }) }
        }
    }
}
